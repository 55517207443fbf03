//! That `cargo xtask bench` measures what it says: the outcome of each packet that is timed. No figure is looked at.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use switcher_tests::skip_unless_lab;

/// Established flows: of two protocols, families, directions and sizes, and of one protocol those that leave as they
/// came; the others of two families and sizes.
const ROWS: usize = 16 + 8 + 4 * 4;

#[test]
fn every_packet_that_is_timed_becomes_what_it_is_measured_as() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let ended = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--smoke", "--only", "packets", "--json"])
        .output()
        .context("cannot run the bench")?;
    let told = String::from_utf8_lossy(&ended.stderr);
    let object: Value = serde_json::from_slice(&ended.stdout)
        .with_context(|| format!("standard output is not exactly one object: {told}"))?;
    ensure!(
        ended.status.success() && object["ok"] == true,
        "{object}\n{told}"
    );
    let rows = object["measured"]["packets"]["rows"].as_array();
    let rows = rows.context("no rows")?;
    ensure!(rows.len() == ROWS, "{} rows: {object}", rows.len());
    for row in rows {
        let costs = row["costs"].as_array().context("no costs")?;
        let has = |program| costs.iter().any(|cost| cost["program"] == program);
        ensure!(has("pass") && has("switcher"), "{row}");
    }
    ensure!(
        object["ratios"]["tcp4_established_vs_router_floor"].is_number()
            && object["ratios"].get("flows_1m_vs_1").is_none(),
        "{object}"
    );
    Ok(())
}
