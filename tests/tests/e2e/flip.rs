//! Flips under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::Family,
    skip_unless_lab,
    traffic::{Client, HttpNew},
};

#[test]
fn a_flip_moves_fresh_connections_to_the_new_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let client = Client::new(lab.client());
    let load = client.http_new(
        crate::services()[0].target(&lab, Family::V4),
        HttpNew::per_second(200),
    );
    load.wait_until(Duration::from_secs(5), |stats| stats.requests > 100)?;
    let flip = node.flip(&["web"], Color::Green)?;
    load.wait_until(Duration::from_secs(5), |stats| stats.requests > 300)?;
    let stats = load.finish();
    println!("{stats:?} {flip:?}");
    println!("{}", node.status()?);
    ensure!(stats.is_clean(), "{stats:?}");
    Ok(())
}
