//! The lab has what it promises, and nothing of it remains, however it ends.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use switcher_tests::lab::{FAR_INTERFACE, Lab, add_link};
use switcher_tests::skip_unless_lab;

/// Generous: the kernel takes namespaces apart in the background.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn hosts_have_interfaces_parameters_and_a_bpffs_of_their_own() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().vip_count(5).mtu(3000).build()?;
    let node = lab.node();
    assert_eq!(node.interface("c1")?.mtu, 3000);
    assert_eq!(node.sysctl("net/ipv4/ip_forward")?, "1");
    assert_eq!(node.sysctl("net/ipv6/conf/all/forwarding")?, "1");
    for name in ["b", "g"] {
        assert_eq!(
            node.sysctl(&format!("net/ipv4/conf/{name}/accept_local"))?,
            "1"
        );
        assert_eq!(
            node.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"))?,
            "0"
        );
    }
    assert_eq!(
        node.run(|| names_in("/sys/class/net"))?,
        set(["b", "c1", "c2", "g", "lo"])
    );
    let directory = lab.bpffs().join("here");
    node.run(|| std::fs::create_dir(&directory))?;
    assert!(!directory.exists(), "the bpffs is seen outside");
    assert!(lab.blue().run(|| Path::new("/sys/fs/bpf/here").exists()));
    let listing = lab.blue().command("ls").arg(lab.bpffs()).output()?;
    let seen = String::from_utf8(listing.stdout)?;
    assert!(
        seen.lines().any(|name| name == "here"),
        "a child does not see the bpffs: {seen}"
    );
    Ok(())
}

#[test]
fn a_lab_shows_nothing_in_the_namespace_it_was_started_from() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let interfaces = names_in("/sys/class/net")?;
    let lab = Lab::builder().build()?;
    assert_eq!(names_in("/sys/class/net")?, interfaces);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let directory = lab.dir().display().to_string();
    assert!(!mounts.contains(&directory), "{mounts}");
    Ok(())
}

#[test]
fn namespaces_are_gone_after_drop() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (watcher, ending) = (Lab::builder().build()?, Lab::builder().build()?);
    let directory = ending.dir().to_owned();
    watch(&watcher, &ending)?;
    drop(ending);
    watcher.node().wait_for_no_interface("watch", LIMIT)?;
    assert!(!directory.exists());
    // The other lab is untouched.
    watcher.node().interface("c1")?;
    watcher.client().interface(FAR_INTERFACE)?;
    Ok(())
}

#[test]
fn namespaces_are_gone_after_a_panic() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (watcher, ending) = (Lab::builder().build()?, Lab::builder().build()?);
    let directory = ending.dir().to_owned();
    watch(&watcher, &ending)?;
    let panicked = std::thread::spawn(move || {
        ending
            .client()
            .run(|| panic!("on purpose, inside {}", ending.client().name()));
    });
    assert!(panicked.join().is_err());
    watcher.node().wait_for_no_interface("watch", LIMIT)?;
    assert!(!directory.exists());
    Ok(())
}

#[test]
fn children_and_their_children_end_with_the_lab() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut shell = lab.blue().command("/bin/sh");
    shell
        .args(["-c", "sleep 1000 & echo $!; wait"])
        .stdout(Stdio::piped());
    let mut shell = shell.spawn()?;
    let grandchild = handle(first_line(&mut shell)?.parse()?)?;
    drop(lab);
    assert_eq!(shell.wait()?.signal(), Some(libc::SIGKILL));
    assert!(ends(&grandchild)?);
    Ok(())
}

#[test]
fn a_child_can_be_ended_and_waited_for() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut command = lab.green().command("sleep");
    command.arg("1000");
    let mut child = lab.green().start_child(command)?;
    assert_eq!(child.wait(Duration::from_millis(10))?, None);
    child.terminate()?;
    let status = child.wait(LIMIT)?.context("it still runs")?;
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    let missing = lab.green().command("/no/such/program");
    assert!(lab.green().start_child(missing).is_err());
    Ok(())
}

#[test]
fn nothing_but_a_directory_remains_after_sigkill_and_the_next_run_removes_that() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let mut held = HeldLab::start()?;
    held.process.kill()?;
    held.process.wait()?;
    assert!(ends(&held.child)?);
    assert_eq!(members(&held.namespace)?, 0);
    assert!(held.directory.exists());
    assert_eq!(names_in(&held.directory)?, set(["bpf"]));
    let long_ago = SystemTime::now() - Duration::from_hours(1);
    File::open(&held.directory)?.set_modified(long_ago)?;
    drop(Lab::builder().build()?);
    assert!(!held.directory.exists());
    Ok(())
}

#[test]
fn nothing_remains_after_ctrl_c() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut held = HeldLab::start()?;
        kill_process(pid(held.process.id())?, signal)?;
        assert_eq!(held.process.wait()?.code(), Some(code));
        assert!(ends(&held.child)?);
        assert_eq!(members(&held.namespace)?, 0);
        assert!(!held.directory.exists());
    }
    Ok(())
}

const HOLD: &str = "SWITCHER_TEST_HOLD_LAB";

/// Does nothing by itself: [`HeldLab`] runs it in a process of its own, to be killed.
#[test]
fn hold_a_lab_where_asked_to() -> Result<()> {
    if std::env::var_os(HOLD).is_none() {
        return Ok(());
    }
    let lab = Lab::builder().build()?;
    let mut command = lab.node().command("sleep");
    command.arg("1000");
    let child = lab.node().start_child(command)?;
    let namespace = lab
        .node()
        .run(|| std::fs::read_link("/proc/thread-self/ns/net"))?;
    let (directory, namespace) = (lab.dir().display(), namespace.display().to_string());
    writeln!(
        std::io::stderr(),
        "held {directory} {} {namespace}",
        child.id()
    )?;
    // Until killed, or until the other process is gone.
    std::io::stdin().lines().for_each(drop);
    Ok(())
}

/// A lab in another process, with a child.
struct HeldLab {
    process: Child,
    directory: PathBuf,
    child: rustix::fd::OwnedFd,
    namespace: String,
}

impl HeldLab {
    fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--exact", "hold_a_lab_where_asked_to", "--nocapture"])
            .env(HOLD, "1");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let errors = process.stderr.take().context("it is piped")?;
        for line in BufReader::new(errors).lines() {
            let line = line?;
            if let ["held", directory, child, namespace] =
                line.split(' ').collect::<Vec<_>>().as_slice()
            {
                let (directory, namespace) = (directory.into(), (*namespace).to_owned());
                let child = handle(child.parse()?)?;
                return Ok(Self {
                    process,
                    directory,
                    child,
                    namespace,
                });
            }
        }
        anyhow::bail!("the other process did not build its lab")
    }
}

/// Connects two labs: the kernel removes this end together with the other lab's.
fn watch(watcher: &Lab, ending: &Lab) -> Result<()> {
    add_link(watcher.node(), "watch", ending.node(), "watched", 1500)
}

/// How many threads are in a network namespace, such as `net:[4026531840]`.
fn members(namespace: &str) -> Result<usize> {
    let mut count = 0;
    for process in std::fs::read_dir("/proc")? {
        // Not a process, or one that has ended.
        let Ok(threads) = std::fs::read_dir(process?.path().join("task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let of_thread = std::fs::read_link(thread.path().join("ns/net"));
            count += usize::from(of_thread.is_ok_and(|it| it == Path::new(namespace)));
        }
    }
    Ok(count)
}

fn names_in(path: impl AsRef<Path>) -> std::io::Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(path)?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn first_line(child: &mut Child) -> Result<String> {
    let output = child.stdout.take().context("it is piped")?;
    BufReader::new(output)
        .lines()
        .next()
        .context("no output")?
        .map_err(Into::into)
}

fn pid(id: u32) -> Result<Pid> {
    Pid::from_raw(id.try_into()?).context("process 0")
}

fn handle(id: u32) -> Result<rustix::fd::OwnedFd> {
    Ok(pidfd_open(pid(id)?, PidfdFlags::empty())?)
}

fn ends(process: &rustix::fd::OwnedFd) -> Result<bool> {
    let limit = Timespec::try_from(LIMIT)?;
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit))? == 1)
}
