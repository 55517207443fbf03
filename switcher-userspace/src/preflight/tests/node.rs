//! A node in a network namespace of its own.
//!
//! `sw0` and `sw1` are its interfaces, `far0` and `far1` their other ends; 192.0.2.10 is a VIP and
//! an address of the node.

use std::{os::fd::AsRawFd as _, path::Path, process::Command, thread};

use nix::{
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

use crate::{
    config::Config,
    preflight::{Finding, Report, Severity, run},
};

const SET_UP: &str = "
    ip link set lo up
    for i in 0 1; do
        ip link add sw$i type veth peer name far$i
        ip link set sw$i up
        ip link set far$i up
    done
    ip addr add 10.9.0.1/24 dev sw0
    ip addr add 10.9.1.1/24 dev sw1
    ip addr add 192.0.2.10/32 dev lo
    ip -6 addr add 2001:db8:1::1/64 dev sw1 nodad
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.sw0.rp_filter=0 net.ipv4.conf.sw1.rp_filter=0
    sysctl -qw net.ipv4.conf.sw1.accept_local=1
";

/// A node in good order, in a namespace of its own.
pub(super) struct Node {
    pub(super) pin_dir: tempfile::TempDir,
    pub(super) interfaces: &'static str,
    pub(super) backend: &'static str,
    pub(super) mode: &'static str,
}

impl Node {
    fn new() -> Self {
        // The mounts of this thread are its own too, so that a bpffs for the test leaves no trace.
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshared");
        let none: Option<&Path> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("private mounts");
        let pin_dir = tempfile::tempdir().expect("a temporary directory");
        mount(
            Some("bpf"),
            pin_dir.path(),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .expect("a bpffs");
        sh(SET_UP);
        for far in ["far0", "far1"] {
            set_tx_checksum(far, false).expect("the kernel switches an offload");
        }
        Self {
            pin_dir,
            interfaces: r#"["sw0", "sw1"]"#,
            backend: "10.9.1.2",
            mode: "auto",
        }
    }

    fn config(&self) -> Config {
        let text = format!(
            r#"
            [agent]
            interfaces = {interfaces}
            mode = "{mode}"
            pin_dir = "{pin_dir}/switcher"
            [[service]]
            name = "web"
            listener = [
              {{ name = "http", vip = "192.0.2.10", port = 80, protocol = "tcp", blue = [{{ address = "{backend}", port = 80 }}] }},
              {{ name = "http6", vip = "2001:db8::10", port = 80, protocol = "tcp", blue = [{{ address = "2001:db8:1::2", port = 80 }}] }},
            ]
            "#,
            interfaces = self.interfaces,
            mode = self.mode,
            pin_dir = self.pin_dir.path().display(),
            backend = self.backend,
        );
        Config::parse(Path::new("test.toml"), &text).expect("a good configuration")
    }

    pub(super) fn run(&self) -> Report {
        run(&self.config(), &|_| false)
    }

    /// The one finding there is.
    #[track_caller]
    pub(super) fn only_finding(&self) -> Finding {
        let report = self.run();
        let [finding] = &report.findings[..] else {
            panic!("expected one finding in:\n{report}");
        };
        finding.clone()
    }

    #[track_caller]
    pub(super) fn expect_clean(&self) {
        let report = self.run();
        assert!(report.findings.is_empty(), "{report}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Without this the temporary directory is busy; a failure leaves an empty directory behind.
        let _ = umount(self.pin_dir.path());
    }
}

/// Leaves the checksums of what an interface sends to hardware, or not: what `ethtool -K` does, which
/// not every machine has.
pub(super) fn set_tx_checksum(interface: &str, on: bool) -> std::io::Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    nix::ioctl_write_ptr_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);
    let mut value = [ETHTOOL_STXCSUM, u32::from(on)];
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    // SAFETY: the request points at an ethtool_value, two numbers, which lives until it returns.
    unsafe { ethtool(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

#[track_caller]
pub(super) fn sh(script: &str) {
    let status = Command::new("sh")
        .args(["-ec", script])
        .status()
        .expect("sh runs");
    assert!(status.success(), "{script}: {status}");
}

/// Runs `test` in a thread that it may take to other namespaces.
#[track_caller]
pub(super) fn with_node(name: &str, test: impl FnOnce(Node) + Send + 'static) {
    if !geteuid().is_root() {
        println!("SKIPPED {name}: network namespaces need root");
        return;
    }
    if let Err(panic) = thread::spawn(|| test(Node::new())).join() {
        std::panic::resume_unwind(panic);
    }
}

/// After `break_it`, `check` is the only finding, of this severity, and its own command mends it.
#[track_caller]
pub(super) fn is_found_and_mended(break_it: &'static str, check: &'static str, severity: Severity) {
    with_node(check, move |node| {
        sh(break_it);
        let finding = node.only_finding();
        assert_eq!(
            (finding.check, finding.severity),
            (check, severity),
            "{finding}"
        );
        sh(&finding.mend);
        node.expect_clean();
    });
}
