//! What the data path is configured with: services in words, and as the agent's configuration.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use switcher_common::service::{Color, PerColor, Protocol};
use switcher_tests::lab::{Family, Lab};
use switcher_userspace::config::{Config, Limits};

/// Services, the tables' sizes, and where the program is attached.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) services: Vec<Vec<Listener>>,
    /// Names of the services.
    pub(crate) names: Vec<String>,
    pub(crate) limits: Limits,
    /// Of all services.
    pub(crate) second_chance: bool,
    /// Interfaces that the program is attached to; frames can come in by these.
    pub(crate) attached: Vec<&'static str>,
}

/// A listener and its backends with their weights.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) vip: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) preview: bool,
    pub(crate) backends: PerColor<Vec<(SocketAddr, u16)>>,
}

/// One kind of traffic: most tests go through all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [
        Self::new(Family::V4, Protocol::Tcp),
        Self::new(Family::V6, Protocol::Tcp),
        Self::new(Family::V4, Protocol::Udp),
        Self::new(Family::V6, Protocol::Udp),
    ];
    pub(crate) const TCP: [Self; 2] = [Self::ALL[0], Self::ALL[1]];
    pub(crate) const UDP: [Self; 2] = [Self::ALL[2], Self::ALL[3]];

    const fn new(family: Family, protocol: Protocol) -> Self {
        Self { family, protocol }
    }

    /// Ports differ, so that their translation shows.
    pub(crate) const fn vip_port(self) -> u16 {
        match self.protocol {
            Protocol::Tcp => 80,
            Protocol::Udp => 53,
        }
    }

    const fn backend_port(self) -> u16 {
        match self.protocol {
            Protocol::Tcp => 8080,
            Protocol::Udp => 5353,
        }
    }

    /// The endpoint of VIP number `index`.
    pub(crate) fn vip(self, lab: &Lab, index: u8) -> SocketAddr {
        SocketAddr::new(lab.vip(self.family, index), self.vip_port())
    }

    /// The backends of `color`, as many as its host has addresses.
    pub(crate) fn backends(self, lab: &Lab, color: Color) -> Vec<SocketAddr> {
        let addresses = lab.backends(color, self.family).into_iter();
        let endpoints = addresses.map(|address| SocketAddr::new(address, self.backend_port()));
        endpoints.collect()
    }

    /// A listener on VIP number `vip` with the first backend of each color.
    pub(crate) fn listener(self, lab: &Lab, vip: u8) -> Listener {
        let first = |color| vec![(self.backends(lab, color)[0], 1)];
        Listener {
            vip: self.vip(lab, vip),
            protocol: self.protocol,
            preview: false,
            backends: PerColor::from_fn(first),
        }
    }
}

/// Small tables, which the kernel makes quickly.
const LIMITS: Limits = Limits {
    interfaces: 64,
    flows: 4_096,
    unanswered: 8_192,
    fragments: 1_024,
    services: 8,
    listeners: 64,
    backends: 128,
    maglev_slots: 16_384,
    inserts_per_second: 125_000,
};

impl Setup {
    /// These services, with tables that never are full.
    pub(crate) fn new(services: Vec<Vec<Listener>>) -> Self {
        Self {
            names: (1..=services.len())
                .map(|number| format!("service{number}"))
                .collect(),
            services,
            limits: LIMITS,
            second_chance: true,
            attached: Vec::new(),
        }
    }

    /// One service with a listener of each kind on VIP 0, and one backend for each color.
    pub(crate) fn plain(lab: &Lab) -> Self {
        Self::new(vec![Kind::ALL.map(|kind| kind.listener(lab, 0)).to_vec()])
    }

    /// The configuration of an agent that pins below `pin_dir`.
    pub(crate) fn config(&self, pin_dir: &Path) -> Result<Config> {
        let mut text = format!(
            "[agent]\ninterfaces = [\"c1\"]\npin_dir = \"{}\"\n",
            pin_dir.display()
        );
        for (name, listeners) in self.names.iter().zip(&self.services) {
            write!(text, "[[service]]\nname = \"{name}\"\n")?;
            for (number, listener) in (1..).zip(listeners) {
                listener.write(number, &mut text)?;
            }
        }
        let mut config = Config::parse(Path::new("made by the test"), &text)?;
        config.agent.limits = self.limits;
        for service in &mut config.services {
            service.second_chance = self.second_chance;
        }
        config.agent.interfaces = self.attached.iter().map(ToString::to_string).collect();
        Ok(config)
    }
}

impl Listener {
    fn write(&self, number: u32, text: &mut String) -> Result<()> {
        write!(
            text,
            "[[service.listener]]\nname = \"listener{number}\"\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"\npreview = {}\n",
            self.vip.ip(),
            self.vip.port(),
            self.protocol.name(),
            self.preview
        )?;
        for color in Color::ALL {
            write!(text, "{} = [", color.name())?;
            for (backend, weight) in self.backends.get(color) {
                let (address, port) = (backend.ip(), backend.port());
                write!(
                    text,
                    "{{ address = \"{address}\", port = {port}, weight = {weight} }},"
                )?;
            }
            writeln!(text, "]")?;
        }
        Ok(())
    }
}
