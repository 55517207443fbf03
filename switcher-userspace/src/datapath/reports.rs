//! What the program reports of backends by itself.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData, RingBuf};
use switcher_common::{
    address::{Address as _, Ipv4, WideAddress},
    report::{BackendReport, Seen},
    service::{BackendRecord, Name},
};
use tokio::io::unix::AsyncFd;

use super::{clock, error::DataPathError, flow_tables::found_in, pins::PinDir};

/// A report in the agent's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// What was seen.
    pub seen: Seen,
    /// Name of the service.
    pub service: String,
    /// Address and port of the backend.
    pub endpoint: SocketAddr,
    /// The client whose flow it is.
    pub client: IpAddr,
    /// When.
    pub at: Instant,
    /// The tick by which the program dates packets.
    pub tick: u32,
    /// Such a tick, of the backend's newest answer to a SYN.
    pub answered: Option<u32>,
}

/// The only reader of the program's ring of reports.
pub struct Reports {
    ring: RingBuf<MapData>,
    backends: Array<MapData, BackendRecord>,
    names: Array<MapData, Name>,
}

impl Reports {
    /// Forgets what was reported until now, which nobody may have read for days.
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        let mut reports = Self {
            ring: pins.open("REPORTS")?,
            backends: pins.open("BACKENDS")?,
            names: pins.open("SERVICE_NAMES")?,
        };
        while reports.ring.next().is_some() {}
        Ok(reports)
    }

    /// Takes at most `most` reports out of the ring, oldest first; how many there were. One of a backend
    /// that is there no more is left out.
    pub fn take(&mut self, most: usize, mut each: impl FnMut(Reported)) -> usize {
        let mut taken = 0;
        while taken < most {
            let Some(item) = self.ring.next() else {
                break;
            };
            taken += 1;
            // Of another size only if the ring was another version's.
            let Ok(report) = bytemuck::try_pod_read_unaligned(&item) else {
                continue;
            };
            drop(item);
            if let Some(reported) = self.reported(&report) {
                each(reported);
            }
        }
        taken
    }

    fn reported(&self, report: &BackendReport) -> Option<Reported> {
        let seen = Seen::from_byte(report.seen)?;
        let backend = found_in(&self.backends, report.backend).ok().flatten()?;
        let name = found_in(&self.names, u32::from(report.service))
            .ok()
            .flatten()?;
        let ago = clock::monotonic_ns().saturating_sub(report.time_ns);
        let now = Instant::now();
        Some(Reported {
            seen,
            service: name.text()?.to_owned(),
            endpoint: SocketAddr::new(backend.address.to_ip(), u16::from_be(backend.port_be)),
            client: client(&report.client, report.af),
            at: now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now),
            tick: report.tick,
            answered: (report.answered != 0).then_some(report.answered),
        })
    }

    /// The same on an event loop, which must be the caller's.
    pub fn live(self) -> io::Result<LiveReports> {
        // SAFETY: the reader owns its ring's descriptor, which stays open and the same until it is
        // dropped, together with the registration.
        let reports = unsafe { AsyncFd::register(self) }.map_err(io::Error::from)?;
        Ok(LiveReports { reports })
    }
}

/// An IPv6 client stays one, also with a mapped address.
fn client(address: &WideAddress, af: u8) -> IpAddr {
    if af == Ipv4::AF {
        address.to_ip()
    } else {
        let octets: [u8; 16] = bytemuck::cast(address.0);
        IpAddr::from(octets)
    }
}

/// [`Reports`] on an event loop.
pub struct LiveReports {
    reports: AsyncFd<Reports>,
}

impl LiveReports {
    /// Waits for reports, then takes at most `most` of them. Dropping the future loses nothing.
    pub async fn take(&mut self, most: usize, each: impl FnMut(Reported)) -> io::Result<()> {
        let mut ready = self.reports.readable_mut().await?;
        if ready.get_inner_mut().take(most, each) < most {
            ready.clear_ready();
        }
        Ok(())
    }
}

impl AsRawFd for Reports {
    /// Readable when there are reports.
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
