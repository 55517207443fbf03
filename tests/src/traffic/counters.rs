//! Counters of a host's kernel.

use anyhow::{Context, Result};

use crate::lab::Host;

/// Segments that the host's TCP had to send again (`TcpRetransSegs`), since it exists: loss that
/// no client sees.
pub fn tcp_retrans_segs(host: &Host) -> Result<u64> {
    let path = "/proc/thread-self/net/snmp";
    host.run(|| std::fs::read_to_string(path))
        .map_err(Into::into)
        .and_then(|text| tcp_counter(&text, "RetransSegs"))
        .with_context(|| format!("reading {path} on host {}", host.name()))
}

/// A line of names is followed by one of values.
fn tcp_counter(text: &str, name: &str) -> Result<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (
        lines.next().context("no Tcp line")?,
        lines.next().context("no values")?,
    );
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs
        .find(|pair| pair.0 == name)
        .with_context(|| format!("no {name}"))?;
    value.parse().with_context(|| format!("{name} is {value}"))
}

#[cfg(test)]
mod tests {
    use super::tcp_counter;

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "Ip: A\nIp: 1\nTcp: MaxConn RetransSegs InErrs\nTcp: -1 42 3\n";
        assert_eq!(tcp_counter(text, "RetransSegs").ok(), Some(42));
        assert!(tcp_counter(text, "Other").is_err());
    }
}
