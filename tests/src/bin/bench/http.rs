//! Requests per second and their latency: nginx serves, wrk asks.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::SocketAddr,
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use switcher_tests::lab::{Lab, LabChild};

use crate::{
    bed::{server, web_ports},
    programs::Programs,
};

/// Connections that ask at the same time.
pub(crate) const CONNECTIONS: u32 = 16;

/// A run of wrk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HttpRun {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Starts nginx on blue's host, with a small answer at each port.
pub(crate) fn start_server(lab: &Lab, programs: &Programs) -> Result<LabChild> {
    let dir = lab.dir().join("nginx");
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut text = "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr warn;\n\
         events { worker_connections 4096; }\n\
         http {\naccess_log off;\nkeepalive_requests 1000000000;\n"
        .to_owned();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        // Writing to a String does not fail. Without a name these are folders of the system.
        let _ = writeln!(text, "{kind}_temp_path {kind};");
    }
    text += "server {\n";
    for port in web_ports() {
        let _ = writeln!(text, "listen {}:{port} backlog=4096;", server(lab));
    }
    text += "location / { return 200 \"It works, and this is what it says to everybody who asks.\\n\"; }\n}\n}\n";
    let file = dir.join("nginx.conf");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = programs.command(lab.blue(), "nginx")?;
    command.args(["-e", "stderr", "-p"]).arg(&dir);
    command.arg("-c").arg(&file);
    let log = File::create(dir.join("log")).context("cannot make nginx's log")?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    lab.blue().start_child(command)
}

/// Asks for `seconds`, on connections that stay or with a new one for each request.
pub(crate) fn ask(
    lab: &Lab,
    programs: &Programs,
    target: SocketAddr,
    stays: bool,
    seconds: u32,
) -> Result<HttpRun> {
    let mut command = programs.command(lab.client(), "wrk")?;
    command.args(["--threads", "1", "--latency"]);
    command.args(["--connections", &CONNECTIONS.to_string()]);
    command.args(["--duration", &format!("{seconds}s")]);
    if !stays {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(format!("http://{target}/"));
    let output = command.output().context("cannot run wrk")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "wrk ended with {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    parse(&said).with_context(|| format!("wrk said:\n{said}"))
}

/// What wrk prints; a run with failures is none.
fn parse(said: &str) -> Result<HttpRun> {
    for line in said.lines().map(str::trim) {
        if line.starts_with("Socket errors") || line.starts_with("Non-2xx") {
            bail!("requests failed: {line}");
        }
    }
    let value = |name: &str| {
        let found = said.lines().find_map(|line| line.trim().strip_prefix(name));
        found
            .map(str::trim)
            .with_context(|| format!("no line with {name}"))
    };
    let rate = value("Requests/sec:")?;
    Ok(HttpRun {
        requests_per_second: rate.parse().with_context(|| format!("no number: {rate}"))?,
        p50_ms: milliseconds(value("50%")?)?,
        p99_ms: milliseconds(value("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    // The longer units first: each ends with the one that follows.
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1_000.0), ("m", 60_000.0)];
    let found = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (number, factor) = found.with_context(|| format!("no unit in {text}"))?;
    let number: f64 = number
        .parse()
        .with_context(|| format!("no number: {text}"))?;
    Ok(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 1s test @ http://192.0.2.1:8001/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   296.67us  252.73us   8.80ms   98.02%
    Req/Sec    55.05k     5.39k   61.10k    81.82%
  Latency Distribution
     50%  261.00us
     75%  295.00us
     90%  353.00us
     99%    1.02ms
  60170 requests in 1.10s, 12.51MB read
Requests/sec:  54713.21
Transfer/sec:     11.38MB
";

    #[test]
    fn rate_and_latency_of_wrk_are_read() {
        let run = parse(SAID).expect("it is what wrk says");
        let expected = HttpRun {
            requests_per_second: 54_713.21,
            p50_ms: 0.261,
            p99_ms: 1.02,
        };
        assert_eq!(run, expected);
        assert!((milliseconds("1.50s").expect("seconds") - 1_500.0).abs() < 1e-9);
    }

    #[test]
    fn a_run_with_failed_requests_is_none() {
        let failed = "  Socket errors: connect 0, read 12, write 0, timeout 0\n";
        let said = SAID.replace("Requests/sec", &format!("{failed}Requests/sec"));
        let error = parse(&said).expect_err("requests failed").to_string();
        assert!(error.contains("read 12"), "{error}");
    }
}
