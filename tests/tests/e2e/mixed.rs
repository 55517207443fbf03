//! Traffic of every kind at once, for tests in which none of it may notice anything.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use switcher_tests::{
    lab::{Family, Lab},
    node::LabService,
    traffic::{
        Client, Flip, HttpNew, KeepAlive, Load, LongLived, Stats, UdpFlows, UdpLongLived, late_old,
    },
};

/// How long each load may take for what it is waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// Long-lived connections, and UDP flows, of each family.
pub(crate) const LASTING: usize = 5;

/// New and lasting connections and UDP flows to the services of [`crate::services`].
pub(crate) struct Mixed {
    loads: Vec<(&'static str, Load)>,
}

impl Mixed {
    /// Starts all loads and waits until each is answered.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let (client, other) = (Client::new(lab.client()), Client::new(lab.client2()));
        let mut loads = Vec::new();
        for family in Family::ALL {
            let web = LabService::web(0).target(lab, family);
            let stream = LabService::stream(1).target(lab, family);
            let datagram = LabService::datagram(2).target(lab, family);
            let kept = KeepAlive {
                lifetime: Duration::from_millis(250),
                ..KeepAlive::default()
            };
            let (connections, flows) = (LASTING, LASTING);
            let lasting = LongLived {
                connections,
                ..LongLived::default()
            };
            let datagrams = UdpLongLived {
                flows,
                ..UdpLongLived::default()
            };
            loads.extend([
                ("requests", client.http_new(web, HttpNew::per_second(50))),
                ("kept connections", other.http_keepalive(web, kept)),
                ("lasting connections", client.long_lived(stream, lasting)),
                (
                    "UDP flows",
                    other.udp_flows(datagram, UdpFlows::per_second(25)),
                ),
                (
                    "lasting UDP flows",
                    client.udp_long_lived(datagram, datagrams),
                ),
            ]);
        }
        let mixed = Self { loads };
        mixed.goes_on()?;
        Ok(mixed)
    }

    /// Waits until each load has more answers, and fresh connections where it makes them.
    pub(crate) fn goes_on(&self) -> Result<()> {
        let snapshots = self.loads.iter().map(|(_, load)| load.snapshot());
        let before: Vec<Stats> = snapshots.collect();
        for ((what, load), before) in self.loads.iter().zip(before) {
            let (fresh, lasting) = (before.fresh.len(), !before.connections.is_empty());
            load.wait_until(LIMIT, |now| {
                now.answered >= before.answered + 20 && (lasting || now.fresh.len() >= fresh + 5)
            })
            .with_context(|| (*what).to_owned())?;
        }
        Ok(())
    }

    /// Ends all loads: nothing may have failed, broken or got lost.
    pub(crate) fn ends_clean(self) -> Result<()> {
        self.ends_clean_after(&[])
    }

    /// As [`Mixed::ends_clean`], and nothing fresh may have been served by the old color late.
    pub(crate) fn ends_clean_after(self, flips: &[Flip]) -> Result<()> {
        for (what, load) in self.loads {
            let stats = load.finish();
            ensure!(stats.is_clean(), "{what}: {:?}", stats.samples);
            let late = late_old(&stats.fresh, flips);
            ensure!(late == 0, "{what}: {late} got the old color late");
        }
        Ok(())
    }
}
