//! One host of the lab: a network namespace with a thread that lives in it.

use std::collections::HashSet;
use std::future::Future;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::child::LabChild;
use super::namespace::{BaseMounts, Namespaces};
use super::netlink::{self, Interface};
use super::ports::Ports;
use super::sys::{self, Offload};

/// How long a host waits at its end for blocking work that was started on it.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);

/// A host: a network namespace, a view of the file system, and a tokio runtime on a thread in it.
pub struct Host {
    name: String,
    namespaces: Namespaces,
    runtime: Handle,
    ports: Arc<Ports>,
    stop: Option<oneshot::Sender<()>>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Host {
    /// Makes the namespaces and starts the thread that lives in them.
    pub(super) fn start(name: &str, base: &Arc<BaseMounts>, bpffs: &Path) -> Result<Self> {
        let (report, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (base, bpffs) = (Arc::clone(base), bpffs.to_owned());
        let keeper = thread::Builder::new()
            .name(format!("lab-{name}"))
            .spawn(move || match prepare(&base, &bpffs) {
                Ok((namespaces, runtime)) => {
                    // A host that is no longer waited for stops at once: `stopped` is closed too.
                    let _ = report.send(Ok((namespaces, runtime.handle().clone())));
                    let _ = runtime.block_on(stopped);
                    runtime.shutdown_timeout(SHUTDOWN_WAIT);
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            })
            .with_context(|| format!("starting the thread of host {name}"))?;
        let (namespaces, runtime) = started
            .recv()
            .map_err(|_| anyhow!("the thread of host {name} ended while starting"))?
            .with_context(|| format!("making the namespaces of host {name}"))?;
        let ports = Arc::new(Ports::new());
        let name = name.to_owned();
        Ok(Self {
            name,
            namespaces,
            runtime,
            ports,
            stop: Some(stop),
            keeper: Some(keeper),
        })
    }

    /// The host's name, such as `client`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `task` on a new thread inside the host and returns its result; a panic goes on here.
    ///
    /// # Panics
    /// Where the thread cannot be started or cannot enter the host.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        let namespaces = &self.namespaces;
        let result = thread::scope(|scope| {
            let inside = move || {
                namespaces
                    .enter()
                    .expect("root can enter namespaces that it holds");
                task()
            };
            scope.spawn(inside).join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts `future` on the host's own thread; it ends with the lab at the latest.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(future)
    }

    /// Runs `future` on the host's own thread and waits for it, blocking the caller.
    ///
    /// # Panics
    /// With the panic of `future`, or when the lab ends meanwhile.
    pub fn block_on<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (sender, result) = mpsc::sync_channel(1);
        let task = self.spawn(async move {
            // The receiver waits below until this line has run.
            let _ = sender.send(future.await);
        });
        result.recv().unwrap_or_else(|_| {
            task.abort();
            panic!(
                "a task on host {} panicked (see above) or was cancelled",
                self.name
            )
        })
    }

    /// Has the host's own thread, on which its tasks run, stay on one CPU from now on. What it sends is received there too,
    /// as the links hand frames over within a CPU.
    pub fn stay_on(&self, cpu: usize) -> Result<()> {
        self.block_on(async move {
            let mut cpus = rustix::thread::CpuSet::new();
            cpus.set(cpu);
            rustix::thread::sched_setaffinity(None, &cpus)
        })
        .with_context(|| format!("keeping host {} on CPU {cpu}", self.name))
    }

    /// The runtime of the host, for code that takes a tokio handle.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// A command that will run inside the host.
    ///
    /// The child is killed when the *thread* that spawns it ends, so a process that is to live as
    /// long as the lab is started with [`Host::start_child`] instead.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let Namespaces { net, mount } = self.namespaces.clone();
        sys::enter_in_child(&mut command, mount, net);
        command
    }

    /// As [`Host::command`], for tokio; the child is killed when its handle is dropped.
    #[must_use]
    pub fn tokio_command(&self, program: impl AsRef<Path>) -> tokio::process::Command {
        let mut command = tokio::process::Command::from(self.command(program));
        command.kill_on_drop(true);
        command
    }

    /// Starts `command` (from [`Host::command`]) on the host's own thread: it dies with the
    /// returned handle, with the lab, or with this process, whichever ends first.
    pub fn start_child(&self, mut command: Command) -> Result<LabChild> {
        let what = format!("{} on host {}", command.get_program().display(), self.name);
        let child = self.block_on(async move { command.spawn() });
        LabChild::new(child.with_context(|| format!("starting {what}"))?, what)
    }

    /// The interface `name` of this host, as it is now.
    pub fn interface(&self, name: &str) -> Result<Interface> {
        let wanted = name.to_owned();
        self.block_on(async move { netlink::interface(&wanted).await })
            .with_context(|| format!("looking up interface {name} on host {}", self.name))
    }

    /// Waits at most `limit` until the host has no interface `name`.
    pub fn wait_for_no_interface(&self, name: &str, limit: Duration) -> Result<()> {
        let wanted = name.to_owned();
        self.block_on(async move { tokio::time::timeout(limit, netlink::gone(&wanted)).await })
            .with_context(|| format!("interface {name} is still there after {limit:?}"))
            .flatten()
            .with_context(|| format!("waiting for its end on host {}", self.name))
    }

    /// Forgets all neighbours, permanent ones too; the kernel resolves them when it needs them.
    pub fn forget_neighbours(&self) -> Result<()> {
        self.block_on(netlink::forget_neighbours())
            .with_context(|| format!("on host {}", self.name))
    }

    /// Switches an offload of one of the host's interfaces.
    pub fn set_offload(&self, interface: &str, offload: Offload, on: bool) -> Result<()> {
        // A veth whose other end carries a program has no segmentation that could be switched off.
        let is_off_anyway =
            |error: &std::io::Error| !on && error.raw_os_error() == Some(libc::EOPNOTSUPP);
        let set = || match sys::set_offload(interface, offload, on) {
            Err(error) if is_off_anyway(&error) => Ok(()),
            result => result,
        };
        self.run(set).with_context(|| {
            format!(
                "setting {offload:?} of {interface} on host {} to {on}",
                self.name
            )
        })
    }

    /// Whether an interface of this host, the far end of a link, takes the frames that XDP sends it.
    /// The lab's links do by a program and by GRO; from here on it is by GRO alone, or not.
    pub fn set_takes_redirects(&self, interface: &str, on: bool) -> Result<()> {
        let wanted = interface.to_owned();
        self.block_on(async move { netlink::detach_native(&wanted).await })
            .with_context(|| format!("on host {}", self.name))?;
        self.set_offload(interface, Offload::GenericReceive, on)
    }

    /// Sets one of the host's interfaces up or down.
    pub fn set_up(&self, name: &str, up: bool) -> Result<()> {
        let wanted = name.to_owned();
        self.block_on(async move {
            if up {
                netlink::set_up(&wanted).await
            } else {
                netlink::set_down(&wanted).await
            }
        })
        .with_context(|| format!("on host {}", self.name))
    }

    /// Drops all that this host sends from now on, until the end of the lab; what is sent to it still arrives.
    pub fn send_nothing(&self) -> Result<()> {
        self.block_on(netlink::send_nothing())
            .with_context(|| format!("on host {}", self.name))
    }

    /// Reads a kernel parameter of the host, such as `net/ipv4/ip_forward`, without line end.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| std::fs::read_to_string(&path))
            .map(|value| value.trim_end().to_owned())
            .with_context(|| format!("reading {} on host {}", path.display(), self.name))
    }

    /// Writes a kernel parameter of the host.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.set_sysctls(&[(key, value)])
    }

    /// Writes several kernel parameters of the host, in order.
    pub fn set_sysctls<K: AsRef<str> + Sync>(&self, pairs: &[(K, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in pairs {
                let path = Path::new("/proc/sys").join(key.as_ref());
                std::fs::write(&path, value).with_context(|| {
                    format!(
                        "setting {} to {value} on host {}",
                        path.display(),
                        self.name
                    )
                })?;
            }
            Ok(())
        })
    }

    /// Source ports for connections from this host, each used once in a long while.
    #[must_use]
    pub fn ports(&self) -> &Arc<Ports> {
        &self.ports
    }

    /// The network namespace, for netlink requests that name it.
    #[must_use]
    pub(super) fn network_namespace(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.namespaces.net)
    }

    /// The inode that identifies the network namespace in `/proc/<pid>/ns/net`.
    pub(super) fn network_inode(&self) -> Result<u64> {
        let status = rustix::fs::fstat(&self.namespaces.net).context("reading a namespace")?;
        Ok(status.st_ino)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Errors mean that the thread has ended already, which is what is wanted.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.keeper.take().map(thread::JoinHandle::join);
    }
}

fn prepare(base: &BaseMounts, bpffs: &Path) -> Result<(Namespaces, Runtime)> {
    let namespaces = Namespaces::enter_new(base, bpffs)?;
    // Threads of tokio's blocking pool inherit the namespaces of this thread.
    let runtime = Builder::new_current_thread().enable_all().build();
    Ok((namespaces, runtime.context("making a tokio runtime")?))
}

/// Kills what still runs inside `hosts`, grandchildren too; a namespace lives as long as a member.
pub(super) fn kill_members(hosts: &[Host]) -> Result<()> {
    let ours = hosts
        .iter()
        .map(Host::network_inode)
        .collect::<Result<HashSet<_>>>()?;
    for entry in std::fs::read_dir("/proc").context("listing processes")? {
        let name = entry.context("listing processes")?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            kill_if_member(pid, &ours).with_context(|| format!("ending process {pid:?}"))?;
        }
    }
    Ok(())
}

fn kill_if_member(pid: rustix::process::Pid, ours: &HashSet<u64>) -> Result<()> {
    use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
    if pid == getpid() {
        return Ok(());
    }
    // Held before the look, so that the number cannot pass to another process in between.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    let path = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    match rustix::fs::stat(&path) {
        Ok(status) if ours.contains(&status.st_ino) => {}
        Ok(_) => return Ok(()),
        // It has ended, or is a zombie, or belongs to someone whom we may not look at.
        Err(error) => {
            return match std::io::Error::from(error).kind() {
                ErrorKind::NotFound | ErrorKind::PermissionDenied => Ok(()),
                _ => Err(error).with_context(|| format!("reading {path}")),
            };
        }
    }
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
