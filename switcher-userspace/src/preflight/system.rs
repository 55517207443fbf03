//! The process and the kernel: rights, version, BTF, bpffs, the JIT compiler.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Report, report::Problem, shell_word, sysctl::Sysctl};
use crate::config::{Config, defaults};

/// The oldest kernel that the data path is written for.
const OLDEST_KERNEL: (u32, u32) = (5, 15);
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Where distributions mount the bpffs.
const USUAL_BPFFS: &str = "/sys/fs/bpf";

/// Bits of `CapEff`, see capabilities(7).
mod cap {
    pub(super) const NET_ADMIN: u64 = 1 << 12;
    /// Stands in for each of the others.
    pub(super) const SYS_ADMIN: u64 = 1 << 21;
    pub(super) const PERFMON: u64 = 1 << 38;
    pub(super) const BPF: u64 = 1 << 39;
}

const RIGHTS: [(&str, u64); 3] = [
    ("CAP_BPF", cap::BPF),
    ("CAP_NET_ADMIN", cap::NET_ADMIN),
    ("CAP_PERFMON", cap::PERFMON),
];

pub(super) fn check(config: &Config, report: &mut Report) {
    match fs::read_to_string("/proc/thread-self/status") {
        Ok(status) => report.settle("rights", rights(&status)),
        Err(error) => report.skip(
            "rights",
            format!("reading /proc/thread-self/status: {error}"),
        ),
    }
    match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => report.settle("kernel", kernel(&release)),
        Err(error) => report.skip(
            "kernel",
            format!("reading /proc/sys/kernel/osrelease: {error}"),
        ),
    }
    report.settle("btf", btf(Path::new(BTF)));
    check_bpffs(&config.agent.pin_dir, report);
    match Sysctl::of_this_thread().number("net/core/bpf_jit_enable") {
        Some(value) => report.settle("bpf_jit", jit(value)),
        None => report.skip(
            "bpf_jit",
            "net.core.bpf_jit_enable cannot be read here; only root in the first network namespace sees it",
        ),
    }
}

fn rights(status: &str) -> Vec<Problem> {
    const MEND: &str = "run the agent as root, or give its systemd unit AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON";
    let Some(effective) = effective_capabilities(status) else {
        let what = "no CapEff in /proc/thread-self/status; the agent's rights are unknown and loading may fail";
        return vec![Problem::warning(what, MEND)];
    };
    let missing: Vec<&str> = RIGHTS
        .into_iter()
        .filter(|(_, bit)| effective & (bit | cap::SYS_ADMIN) == 0)
        .map(|(name, _)| name)
        .collect();
    let lacks = format!("the agent lacks {}", missing.join(", "));
    match missing[..] {
        [] => Vec::new(),
        _ => vec![Problem::fatal(
            format!("{lacks}; it can neither load nor attach its programs"),
            MEND,
        )],
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn kernel(release: &str) -> Vec<Problem> {
    let release = release.trim();
    let (major, minor) = OLDEST_KERNEL;
    let mend = format!("boot Linux {major}.{minor} or newer");
    match version(release) {
        Some(found) if found >= OLDEST_KERNEL => Vec::new(),
        Some(_) => vec![Problem::fatal(
            format!(
                "the kernel is {release}; expected {major}.{minor} or newer, the first with all that the data path uses"
            ),
            mend,
        )],
        None => vec![Problem::warning(
            format!(
                "the kernel calls itself {release:?}, which is not a version; expected {major}.{minor} or newer"
            ),
            mend,
        )],
    }
}

/// Major and minor number of `6.18.44-extra`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn btf(file: &Path) -> Vec<Problem> {
    if file.exists() {
        return Vec::new();
    }
    let what = format!(
        "{} is missing; the program that counts and removes flows cannot load without it",
        file.display()
    );
    vec![Problem::fatal(
        what,
        "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
    )]
}

fn check_bpffs(pin_dir: &Path, report: &mut Report) {
    let ancestor = nearest_existing(pin_dir);
    match statfs(&ancestor) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => report.settle("bpffs", Vec::new()),
        Ok(_) => report.settle("bpffs", vec![no_bpffs(pin_dir, &ancestor)]),
        Err(error) => report.skip(
            "bpffs",
            format!(
                "asking for the file system of {}: {error}",
                ancestor.display()
            ),
        ),
    }
}

fn nearest_existing(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.unwrap_or(Path::new("/")).to_owned()
}

fn no_bpffs(pin_dir: &Path, ancestor: &Path) -> Problem {
    let what = format!(
        "pin_dir {} would be on {}, which is not a bpffs; nothing can be pinned there, and traffic would stop with the agent",
        pin_dir.display(),
        ancestor.display()
    );
    Problem::fatal(what, mount_command(pin_dir))
}

fn mount_command(pin_dir: &Path) -> String {
    if pin_dir.starts_with(USUAL_BPFFS) || pin_dir == Path::new(defaults::PIN_DIR) {
        return format!("mount -t bpf bpf {USUAL_BPFFS}");
    }
    let dir = shell_word(&pin_dir.to_string_lossy());
    format!("mkdir -p {dir} && mount -t bpf bpf {dir}")
}

fn jit(enabled: u32) -> Vec<Problem> {
    if enabled != 0 {
        return Vec::new();
    }
    let what = "net.core.bpf_jit_enable is 0; the program is interpreted, several times slower";
    vec![Problem::warning(
        what,
        "sysctl -w net.core.bpf_jit_enable=1",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    fn severities(check: &'static str, problems: Vec<Problem>) -> Vec<Severity> {
        let mut report = Report::default();
        report.settle(check, problems);
        report
            .findings
            .iter()
            .map(|finding| finding.severity)
            .collect()
    }

    #[test]
    fn rights_are_bpf_net_admin_and_perfmon_or_sys_admin() {
        use Severity::Fatal;
        for (bits, expected) in [
            (0, vec![Fatal]),
            (cap::BPF, vec![Fatal]),
            (cap::BPF | cap::PERFMON, vec![Fatal]),
            (cap::BPF | cap::NET_ADMIN, vec![Fatal]),
            (cap::BPF | cap::NET_ADMIN | cap::PERFMON, vec![]),
            (cap::SYS_ADMIN, vec![]),
        ] {
            let status = format!("Name:\tx\nCapPrm:\t0\nCapEff:\t{bits:016x}\n");
            assert_eq!(severities("rights", rights(&status)), expected, "{status}");
        }
    }

    #[test]
    fn kernels_are_compared_by_number() {
        use Severity::{Fatal, Warning};
        for (release, expected) in [
            ("5.15.0\n", vec![]),
            ("5.15.0-91-generic", vec![]),
            ("6.1", vec![]),
            ("6.18.44-fc", vec![]),
            ("5.4.0", vec![Fatal]),
            ("4.19.1", vec![Fatal]),
            ("plan9", vec![Warning]),
        ] {
            assert_eq!(severities("kernel", kernel(release)), expected, "{release}");
        }
    }

    #[test]
    fn a_pin_dir_that_is_not_on_a_bpffs_is_fatal_and_the_mount_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pin_dir = dir.path().join("a/b");
        let mut report = Report::default();
        check_bpffs(&pin_dir, &mut report);
        assert!(report.is_fatal());
        let expected = format!("mkdir -p {0} && mount -t bpf bpf {0}", pin_dir.display());
        assert_eq!(report.findings[0].mend, expected);
        assert_eq!(
            mount_command(Path::new(defaults::PIN_DIR)),
            "mount -t bpf bpf /sys/fs/bpf"
        );
    }

    #[test]
    fn a_missing_btf_is_fatal_and_a_jit_that_is_off_is_a_warning() {
        assert_eq!(
            severities("btf", btf(Path::new("/nonexistent"))),
            [Severity::Fatal]
        );
        assert_eq!(severities("bpf_jit", jit(0)), [Severity::Warning]);
        assert_eq!(severities("bpf_jit", jit(2)), []);
    }
}
