//! Kernel settings under `/proc/sys`, and the command that changes one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::shell_word;

/// The settings as one thread sees them.
pub(super) struct Sysctl {
    root: PathBuf,
}

impl Sysctl {
    /// Files under `/proc/sys/net` show the network namespace of the thread that reads them.
    pub(super) fn of_this_thread() -> Self {
        Self::at(Path::new("/proc/sys"))
    }

    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The setting at `key` (`net/ipv4/ip_forward`); none if it is missing or not a number.
    pub(super) fn number(&self, key: &str) -> Option<u32> {
        fs::read_to_string(self.root.join(key))
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

/// The key of an interface's setting; `family` is `ipv4` or `ipv6`.
pub(super) fn of_interface(family: &str, interface: &str, setting: &str) -> String {
    format!("net/{family}/conf/{interface}/{setting}")
}

/// The command that sets every one of `keys` to `value`.
pub(super) fn set_command(keys: &[String], value: u32) -> String {
    keys.iter().fold("sysctl -w".to_owned(), |command, key| {
        command + " " + &shell_word(&format!("{}={value}", dotted(key)))
    })
}

/// `sysctl` swaps dots and slashes, so that the dot of `eth0.100` is written as a slash.
fn dotted(key: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    key.chars().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_in_an_interface_name_is_written_as_a_slash() {
        let key = of_interface("ipv4", "eth0.100", "rp_filter");
        assert_eq!(
            set_command(&[key], 2),
            "sysctl -w net.ipv4.conf.eth0/100.rp_filter=2"
        );
    }

    #[test]
    fn several_settings_make_one_command() {
        let keys = [
            "net/ipv4/ip_forward".to_owned(),
            "net/ipv4/conf/a;b/forwarding".to_owned(),
        ];
        let expected = "sysctl -w net.ipv4.ip_forward=1 'net.ipv4.conf.a;b.forwarding=1'";
        assert_eq!(set_command(&keys, 1), expected);
    }
}
