//! Configurations of the size of a large node.

use std::{fmt::Write as _, net::IpAddr};

use switcher_common::service::Color;

use crate::lab::{Family, Lab};

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    /// Services.
    pub services: u16,
    /// Listeners of each service, at most 250; every second one is IPv6.
    pub listeners: u8,
    /// Backends of each listener and color.
    pub backends: u16,
    /// Another number, other backends.
    pub variant: u16,
    /// Another number, other VIPs; at most 15.
    pub net: u8,
}

impl Many {
    /// Ten thousand listeners.
    pub const LISTENERS: Self = Self {
        services: 100,
        listeners: 100,
        backends: 2,
        variant: 0,
        net: 0,
    };
    /// Ten listeners, each with five hundred backends of each color.
    pub const BACKENDS: Self = Self {
        services: 1,
        listeners: 10,
        backends: 500,
        variant: 0,
        net: 0,
    };

    /// Where clients connect to; `service` and `listener` count from 0.
    #[must_use]
    pub fn vip(self, service: u16, listener: u8) -> IpAddr {
        let [high, low] = service.to_be_bytes();
        match Self::family(listener) {
            Family::V4 => [10, 128 + self.net * 4 + high, low, 1 + listener].into(),
            Family::V6 => {
                let last = 1 + u16::from(listener);
                [0x2001, 0xdb8, 0xcafe, service, 0, 0, self.net.into(), last].into()
            }
        }
    }

    /// Port of every listener.
    pub const PORT: u16 = 443;

    const fn family(listener: u8) -> Family {
        if listener.is_multiple_of(2) {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// Port of the first backend of a listener; the others' follow.
    #[must_use]
    pub fn backend_port(self, service: u16, listener: u8) -> u16 {
        let listener = service % 100 * 100 + u16::from(listener) % 100;
        10_000 + self.variant * 20_000 + listener % (20_000 - self.backends)
    }

    /// The services' part of a configuration file. All backends are on the first address of each
    /// color's host in `lab`, and differ by their ports.
    #[must_use]
    pub fn services(self, lab: &Lab) -> String {
        let mut text = String::new();
        for service in 0..self.services {
            // Writing to a String does not fail.
            let _ = writeln!(text, "[[service]]\nname = \"many{service}\"");
            for listener in 0..self.listeners {
                self.listener(lab, service, listener, &mut text);
            }
        }
        text
    }

    fn listener(self, lab: &Lab, service: u16, listener: u8, text: &mut String) {
        let _ = writeln!(
            text,
            "[[service.listener]]\nname = \"l{listener}\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"",
            self.vip(service, listener),
            Self::PORT
        );
        for color in Color::ALL {
            let _ = write!(text, "{} = [", color.name());
            let address = lab.backends(color, Self::family(listener))[0];
            let first = self.backend_port(service, listener);
            for port in (first..).take(usize::from(self.backends)) {
                let _ = write!(text, "{{ address = \"{address}\", port = {port} }}, ");
            }
            let _ = writeln!(text, "]");
        }
    }
}
