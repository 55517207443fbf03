//! The load: from both clients, over both IP versions, to all services.

use std::{num::NonZeroU32, time::Duration};

use switcher_common::service::{Color, PerColor};
use switcher_tests::{
    lab::{Family, Host, Lab},
    traffic::{Client, HttpNew, KeepAlive, Load, LongLived, Stats, UdpFlows},
};
use tokio::time::interval;

use crate::plan::Service;

/// New HTTP connections begin this long after each other, over all clients and IP versions: the
/// resolution of the time to the first one on the new color.
pub(crate) const SPACING: Duration = Duration::from_micros(1_500);
/// Clients times IP versions.
const LOADS_OF_A_KIND: u32 = 4;
/// New UDP flows per second of one client and IP version.
const UDP_RATE: u32 = 60;
/// Time between two messages of a long-lived connection.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(8);
/// Shortest life of an HTTP connection that is kept.
const KEPT: Duration = Duration::from_secs(1);
/// Long-lived connections of one client and IP version at the beginning.
const LONG_LIVED: usize = 3;

/// What a load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP, a connection for each request.
    HttpNew,
    /// HTTP, connections that are kept for one to two seconds.
    HttpKept,
    /// TCP connections that outlive all flips.
    LongLived,
    /// UDP flows of four datagrams.
    UdpShort,
    /// UDP flows that keep their port for a second.
    UdpKept,
}

impl Kind {
    pub(crate) const fn service(self) -> Service {
        match self {
            Self::HttpNew | Self::HttpKept => Service::Web,
            Self::LongLived => Service::Stream,
            Self::UdpShort | Self::UdpKept => Service::Datagram,
        }
    }
}

/// Where a load comes from and goes to, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The number of the client host.
    pub(crate) client: usize,
    /// IP version.
    pub(crate) family: Family,
    /// What it does.
    pub(crate) kind: Kind,
}

/// The record of a finished load.
pub(crate) struct Record {
    pub(crate) source: Source,
    pub(crate) stats: Stats,
}

/// All loads.
pub(crate) struct Loads<'lab> {
    lab: &'lab Lab,
    running: Vec<(Source, Load)>,
    later: usize,
}

/// Counters of all loads together, for the display.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Answers, by service in the order of [`Service::ALL`].
    pub(crate) answered: [PerColor<u64>; Service::ALL.len()],
    pub(crate) failed: u64,
    pub(crate) broken: u64,
    pub(crate) lost: u64,
}

impl<'lab> Loads<'lab> {
    /// Starts everything, evenly spaced in time.
    pub(crate) async fn start(lab: &'lab Lab) -> Self {
        let mut loads = Self {
            lab,
            running: Vec::new(),
            later: 0,
        };
        let mut moments = interval(SPACING);
        for kind in [
            Kind::LongLived,
            Kind::HttpKept,
            Kind::UdpShort,
            Kind::UdpKept,
            Kind::HttpNew,
        ] {
            for (family, client) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let source = Source {
                    client,
                    family: Family::ALL[family],
                    kind,
                };
                loads.begin(source, LONG_LIVED);
                moments.tick().await;
            }
        }
        loads
    }

    /// Adds two long-lived connections, so that there are some that began on either color.
    pub(crate) fn add_long_lived(&mut self) {
        for family in Family::ALL {
            let client = self.later % 2;
            self.later += 1;
            let kind = Kind::LongLived;
            self.begin(
                Source {
                    client,
                    family,
                    kind,
                },
                1,
            );
        }
        // The next two come from the other client each.
        self.later += 1;
    }

    fn begin(&mut self, source: Source, connections: usize) {
        let target = source
            .kind
            .service()
            .in_lab()
            .target(self.lab, source.family);
        let client = Client::new(host(self.lab, source.client));
        // Not all end at the same time, so that each flip meets some that have just begun.
        let lifetime = KEPT * (4 + u32::try_from(self.running.len()).unwrap_or(0) % 4) / 4;
        let load = match source.kind {
            Kind::HttpNew => client.http_new(target, http_new()),
            Kind::HttpKept => client.http_keepalive(target, kept(lifetime)),
            Kind::LongLived => client.long_lived(target, long_lived(connections)),
            Kind::UdpShort => client.udp_flows(target, UdpFlows::per_second(UDP_RATE)),
            Kind::UdpKept => client.udp_flows(target, udp_kept()),
        };
        self.running.push((source, load));
    }

    /// The counters so far.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (source, load) in &self.running {
            load.read(|stats| totals.add(source.kind.service(), stats));
        }
        totals
    }

    /// What `read` takes from each load's record so far.
    pub(crate) fn read<T>(&self, mut read: impl FnMut(Source, &Stats) -> T) -> Vec<T> {
        let loads = self.running.iter();
        loads
            .map(|(source, load)| load.read(|stats| read(*source, stats)))
            .collect()
    }

    /// Stops all loads, and returns their records when what was in flight has ended.
    pub(crate) fn finish(self) -> Vec<Record> {
        for (_, load) in &self.running {
            load.stop();
        }
        let finished = |(source, load): (Source, Load)| Record {
            source,
            stats: load.finish(),
        };
        self.running.into_iter().map(finished).collect()
    }
}

impl Totals {
    fn add(&mut self, service: Service, stats: &Stats) {
        self.failed += stats.failed;
        self.broken += stats.broken;
        self.lost += stats.lost;
        for color in Color::ALL {
            *self.answered[service as usize].get_mut(color) += stats.per_color.get(color);
        }
    }
}

fn host(lab: &Lab, client: usize) -> &Host {
    if client == 0 {
        lab.client()
    } else {
        lab.client2()
    }
}

fn kept(lifetime: Duration) -> KeepAlive {
    KeepAlive {
        connections: 2,
        lifetime,
        ..KeepAlive::default()
    }
}

fn long_lived(connections: usize) -> LongLived {
    LongLived {
        connections,
        interval: MESSAGE_INTERVAL,
        ..LongLived::default()
    }
}

/// A second long: such a flow meets most flips, and ends soon enough for the drain.
fn udp_kept() -> UdpFlows {
    UdpFlows {
        datagrams: 100,
        interval: Duration::from_millis(10),
        ..UdpFlows::per_second(2)
    }
}

fn http_new() -> HttpNew {
    let period = SPACING * LOADS_OF_A_KIND;
    let rate = 1_000_000 / u32::try_from(period.as_micros()).unwrap_or(1_000_000);
    HttpNew {
        per_second: NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN),
        ..HttpNew::per_second(1)
    }
}
