//! Bulk throughput of one TCP stream, to the server: iperf3.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    bed::{Bed, server},
    programs::Programs,
};

/// Gigabits per second that arrive, of `bytes`.
pub(crate) fn send(bed: &Bed<'_>, programs: &Programs, port: u16, bytes: u64) -> Result<f64> {
    let mut command = programs.command(bed.lab.blue(), "iperf3")?;
    command.args(["--server", "--one-off", "--forceflush"]);
    command.args(["--bind", &server(bed.lab).to_string()]);
    command.args(["--port", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = bed.lab.blue().start_child(command)?;
    let stdout = child.child().stdout.take().context("a pipe")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut said = String::new();
    while !said.contains("Server listening") {
        let line = lines.next();
        said += &line.with_context(|| format!("iperf3 does not listen; it says {said:?}"))??;
    }
    let target = bed.target(port);
    let mut command = programs.command(bed.lab.client(), "iperf3")?;
    command.args(["--client", &target.ip().to_string()]);
    command.args(["--port", &port.to_string(), "--json"]);
    command.args(["--bytes", &bytes.to_string()]);
    let output = command.output().context("cannot run iperf3")?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())
        .context("iperf3 writes no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3 to {target}: {error}");
    }
    ensure!(
        child.wait(Duration::from_secs(5))?.is_some(),
        "the server of iperf3 did not end"
    );
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("no rate in {report}"))? / 1e9)
}
