//! IP packets as their bytes say, whatever source they name: what an attacker on the network sends.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::lab::Host;

/// Packets sent in a row; fewer than the smallest queue on their way holds.
const BURST: u32 = 16;
/// Packets of one flood, at most.
const MOST: u32 = 1 << 20;

/// An IP packet, checksums included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPacket {
    /// The packet from its IP header on.
    pub bytes: Vec<u8>,
    /// The destination in its header, which the host routes it by.
    pub to: IpAddr,
}

/// Sends packets from one host.
pub struct RawSender {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl RawSender {
    /// A sender on `host`; needs root.
    pub fn open(host: &Host) -> Result<Self> {
        let open = |family| socket(family, SocketType::RAW, Some(ipproto::RAW));
        host.run(|| {
            Ok(Self {
                v4: open(AddressFamily::INET)?,
                v6: open(AddressFamily::INET6)?,
            })
        })
        .map_err(|error: rustix::io::Errno| anyhow!(error))
        .with_context(|| format!("opening raw sockets on host {}", host.name()))
    }

    /// Sends one packet.
    pub fn send(&self, packet: &RawPacket) -> Result<()> {
        let socket = match packet.to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        // A raw socket has no ports: those of the packet are in its bytes.
        let to = SocketAddr::new(packet.to, 0);
        sendto(socket, &packet.bytes, SendFlags::empty(), &to)
            .with_context(|| format!("sending {} bytes to {}", packet.bytes.len(), packet.to))?;
        Ok(())
    }
}

/// A bounded stream of packets from a thread of its own.
pub struct Flood {
    progress: Arc<Progress>,
    thread: JoinHandle<Result<()>>,
}

#[derive(Default)]
struct Progress {
    /// Packets sent, and whether there will be no more.
    state: Mutex<(u32, bool)>,
    changed: Condvar,
}

impl Progress {
    fn set(&self, change: impl FnOnce(&mut (u32, bool))) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, (u32, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flood {
    /// Sends packet number 0 to `packets - 1`, made by `packet`, from `host`.
    pub fn start(
        host: &Host,
        packets: u32,
        per_second: NonZeroU32,
        packet: impl Fn(u32) -> Result<RawPacket> + Send + 'static,
    ) -> Result<Self> {
        if packets > MOST {
            bail!("a flood of {packets} packets; at most {MOST} are sent");
        }
        let sender = RawSender::open(host)?;
        let progress = Arc::<Progress>::default();
        let shared = Arc::clone(&progress);
        let run = move || {
            let result = send_all(&sender, packets, per_second, &packet, &shared);
            shared.set(|state| state.1 = true);
            result
        };
        let thread = thread::Builder::new().name("flood".to_owned()).spawn(run);
        Ok(Self {
            progress,
            thread: thread.context("starting the thread of a flood")?,
        })
    }

    /// Waits at most `limit` until `packets` were sent.
    pub fn wait_for(&self, packets: u32, limit: Duration) -> Result<()> {
        let waited = self.progress.changed.wait_timeout_while(
            self.progress.lock(),
            limit,
            |(sent, ended)| *sent < packets && !*ended,
        );
        let (sent, _) = *waited.unwrap_or_else(PoisonError::into_inner).0;
        if sent < packets {
            bail!("a flood sent {sent} packets within {limit:?}, expected {packets}");
        }
        Ok(())
    }

    /// Waits until all were sent.
    pub fn finish(self) -> Result<()> {
        match self.thread.join() {
            Ok(result) => result.context("a flood"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn send_all(
    sender: &RawSender,
    packets: u32,
    per_second: NonZeroU32,
    packet: &impl Fn(u32) -> Result<RawPacket>,
    progress: &Progress,
) -> Result<()> {
    let began = Instant::now();
    for number in 0..packets {
        if number % BURST == 0 {
            let due = began + Duration::from_secs(1) * number / per_second.get();
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        sender.send(&packet(number)?)?;
        progress.set(|state| state.0 = number + 1);
    }
    Ok(())
}
