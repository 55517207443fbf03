//! A short run of `cargo xtask failover`: what it prints, and that each scenario ends as it must.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use switcher_tests::skip_unless_lab;

#[test]
fn the_scenarios_of_a_short_run_end_as_they_must() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let ended = Command::new(env!("CARGO_BIN_EXE_failover"))
        .args(["--quick", "--json"])
        .output()
        .context("cannot run the scenarios")?;
    let told = String::from_utf8_lossy(&ended.stderr);
    let object: Value = serde_json::from_slice(&ended.stdout)
        .with_context(|| format!("standard output is not exactly one object: {told}"))?;
    ensure!(
        ended.status.success() && object["ok"] == true,
        "{object}\n{told}"
    );
    let scenarios = object["scenarios"].as_array().context("scenarios")?;
    let names: Vec<_> = scenarios
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    ensure!(
        names == ["crash", "color_crash", "half_bad", "both_bad"],
        "{names:?}"
    );
    for scenario in scenarios {
        ensure!(
            scenario["requests"].as_u64() > Some(300) && scenario["recovered_ms"].is_number(),
            "{scenario}"
        );
    }
    ensure!(object["peers"] == serde_json::json!([]), "{object}");
    Ok(())
}
