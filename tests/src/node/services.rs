//! The services that the lab's node switches, and the configuration that says so.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use switcher_common::service::{Color, Protocol};

use crate::{
    lab::{Family, Lab},
    traffic::{BULK_PORT, ECHO_PORT, HTTP_PORT},
};

/// A service of the lab: one listener for each family and protocol.
#[derive(Clone, Debug)]
pub struct LabService {
    /// Its name.
    pub name: &'static str,
    /// Which of the lab's VIPs it has.
    pub vip: u8,
    /// Its port.
    pub port: u16,
    /// Its protocols.
    pub protocols: &'static [Protocol],
    /// Port of its backends.
    pub backend_port: u16,
    /// Lines that go into `[[service]]`.
    pub options: String,
}

impl LabService {
    /// HTTP on port 80.
    #[must_use]
    pub fn web(vip: u8) -> Self {
        Self {
            name: "web",
            vip,
            port: 80,
            protocols: &[Protocol::Tcp],
            backend_port: HTTP_PORT,
            options: String::new(),
        }
    }

    /// Echo over TCP, for connections that live long.
    #[must_use]
    pub fn stream(vip: u8) -> Self {
        Self {
            name: "stream",
            vip,
            port: 7,
            protocols: &[Protocol::Tcp],
            backend_port: ECHO_PORT,
            options: String::new(),
        }
    }

    /// Echo over UDP. Flows count as finished after a second of silence, so that drains are short.
    #[must_use]
    pub fn datagram(vip: u8) -> Self {
        Self {
            name: "datagram",
            vip,
            port: 7,
            protocols: &[Protocol::Udp],
            backend_port: ECHO_PORT,
            options: "drain_udp_idle = \"1s\"".to_owned(),
        }
    }

    /// Bulk data over TCP and UDP.
    #[must_use]
    pub fn bulk(vip: u8) -> Self {
        Self {
            name: "bulk",
            vip,
            port: 9,
            protocols: &[Protocol::Tcp, Protocol::Udp],
            backend_port: BULK_PORT,
            options: String::new(),
        }
    }

    /// Where clients connect to.
    #[must_use]
    pub fn target(&self, lab: &Lab, family: Family) -> SocketAddr {
        SocketAddr::new(lab.vip(family, self.vip), self.port)
    }
}

/// The text of a configuration file for `services` in `lab`.
#[must_use]
pub fn configuration(lab: &Lab, services: &[LabService]) -> String {
    let dir = lab.dir().display();
    let interfaces = lab.topology().node_interfaces().into_iter();
    let interfaces: Vec<_> = interfaces.map(|name| format!("{name:?}")).collect();
    let mut text = format!(
        "[agent]\n\
         interfaces = [{}]\n\
         mode = \"native\"\n\
         socket = \"{dir}/switcher.sock\"\n\
         pin_dir = \"{}/switcher\"\n\
         state_dir = \"{dir}/state\"\n\
         [agent.limits]\n\
         flows = 65536\n\
         unanswered = 16384\n\
         services = 64\n\
         listeners = 256\n\
         backends = 1024\n\
         maglev_slots = 262144\n",
        interfaces.join(", "),
        lab.bpffs().display()
    );
    for service in services {
        write_service(&mut text, lab, service);
    }
    text
}

fn write_service(text: &mut String, lab: &Lab, service: &LabService) {
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "[[service]]\nname = \"{}\"\n{}",
        service.name, service.options
    );
    for family in [Family::V4, Family::V6] {
        for protocol in service.protocols {
            let name = format!("{}-{family:?}", protocol.name()).to_lowercase();
            let _ = writeln!(
                text,
                "[[service.listener]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"",
                lab.vip(family, service.vip),
                service.port,
                protocol.name()
            );
            for color in Color::ALL {
                let backends = lab.backends(color, family);
                let _ = writeln!(
                    text,
                    "{} = [{}]",
                    color.name(),
                    list(&backends, service.backend_port)
                );
            }
        }
    }
}

fn list(addresses: &[IpAddr], port: u16) -> String {
    let backend = |address: &IpAddr| format!("{{ address = \"{address}\", port = {port} }}");
    addresses.iter().map(backend).collect::<Vec<_>>().join(", ")
}
