//! Counters of a host's kernel.

use anyhow::{Context, Result};

use crate::lab::Host;

/// Segments that the host's TCP had to send again (`TcpRetransSegs`), since it exists: loss that
/// no client sees.
pub fn tcp_retrans_segs(host: &Host) -> Result<u64> {
    read(host, "snmp", "Tcp:", "RetransSegs")
}

/// ACKs by which the host's TCP answered segments that did not fit their connection (RFC 5961).
pub fn challenge_acks(host: &Host) -> Result<u64> {
    read(host, "netstat", "TcpExt:", "TCPChallengeACK")
}

/// The host's TCP sockets in state ESTABLISHED, of both families, as the kernel lists them.
pub fn established_sockets(host: &Host) -> Result<usize> {
    let list = |file: &str| -> Result<usize> {
        let path = format!("/proc/thread-self/net/{file}");
        let text = host
            .run(|| std::fs::read_to_string(&path))
            .with_context(|| format!("reading {path} on host {}", host.name()))?;
        let states = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().nth(3));
        Ok(states.filter(|state| *state == Some("01")).count())
    };
    Ok(list("tcp")? + list("tcp6")?)
}

/// The counter `name` of a group in a file of `/proc/net`.
fn read(host: &Host, file: &str, group: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/thread-self/net/{file}");
    host.run(|| std::fs::read_to_string(&path))
        .map_err(Into::into)
        .and_then(|text| counter(&text, group, name))
        .with_context(|| format!("reading {path} on host {}", host.name()))
}

/// Packets that the host's interfaces dropped, since it exists: on the virtual links of a lab that
/// is the machine being too busy, unless an XDP program sends where it must not.
pub fn link_drops(host: &Host) -> Result<u64> {
    let path = "/proc/thread-self/net/dev";
    host.run(|| std::fs::read_to_string(path))
        .map_err(Into::into)
        .and_then(|text| text.lines().skip(2).map(dropped).sum())
        .with_context(|| format!("reading {path} on host {}", host.name()))
}

/// `name: bytes packets errs drop ...`, eight numbers received, then as many sent.
fn dropped(line: &str) -> Result<u64> {
    let (name, numbers) = line.split_once(':').context("no interface")?;
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    [3, 11]
        .into_iter()
        .map(|column| {
            let number = numbers.get(column).context("a column is missing")?;
            number
                .parse::<u64>()
                .with_context(|| format!("{number} on {name}"))
        })
        .sum()
}

/// A line of names is followed by one of values.
fn counter(text: &str, group: &str, name: &str) -> Result<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = (
        lines.next().with_context(|| format!("no line {group}"))?,
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
    use super::{counter, dropped};

    #[test]
    fn drops_of_both_directions_are_added() {
        let line = "  eth0: 1 2 3 40 5 6 7 8 9 10 11 2 13 14 15 16";
        assert_eq!(dropped(line).ok(), Some(42));
        assert!(dropped("eth0: 1 2").is_err());
    }

    #[test]
    fn a_counter_is_found_by_its_name() {
        let text = "Ip: A\nIp: 1\nTcp: MaxConn RetransSegs InErrs\nTcp: -1 42 3\n";
        assert_eq!(counter(text, "Tcp:", "RetransSegs").ok(), Some(42));
        assert!(counter(text, "Tcp:", "Other").is_err());
    }
}
