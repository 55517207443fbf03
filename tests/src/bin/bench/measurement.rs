//! The measurements, in the order in which they are made.

use anyhow::Result;
use serde::Serialize;

use crate::{
    applications::{self, Applications},
    collection::{self, Collection},
    flip::{self, Flips},
    live::{self, Live},
    packets::{self, Packets},
    plan::Plan,
    table::Table,
};

/// A measurement, by what makes it.
pub(crate) struct Measurement {
    /// As `--only` takes it.
    pub(crate) name: &'static str,
    /// What is measured, for people who wait.
    pub(crate) what: &'static str,
    /// Makes it, and puts the result where it belongs.
    pub(crate) make: fn(&Plan, &mut Measured) -> Result<()>,
}

/// All of them.
pub(crate) const ALL: &[Measurement] = &[
    Measurement {
        name: "packets",
        what: "what a packet costs in the kernel",
        make: |plan, measured| {
            measured.packets = Some(packets::measure(plan)?);
            Ok(())
        },
    },
    Measurement {
        name: "flips",
        what: "how long a flip takes",
        make: |plan, measured| {
            measured.flips = Some(flip::measure(plan)?);
            Ok(())
        },
    },
    Measurement {
        name: "collection",
        what: "counting and expiring a million flows",
        make: |plan, measured| {
            measured.collection = Some(collection::measure(plan)?);
            Ok(())
        },
    },
    Measurement {
        name: "live",
        what: "packets per second through the switcher, nftables and bare forwarding",
        make: |plan, measured| {
            measured.live = Some(live::measure(plan)?);
            Ok(())
        },
    },
    Measurement {
        name: "applications",
        what: "HTTP and bulk throughput through the switcher, nftables, HAProxy and nothing",
        make: |plan, measured| {
            measured.applications = Some(applications::measure(plan)?);
            Ok(())
        },
    },
];

/// What has been measured; absent: it was not asked for, or could not be.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Measured {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) packets: Option<Packets>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flips: Option<Flips>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) collection: Option<Collection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) live: Option<Live>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) applications: Option<Applications>,
}

impl Measured {
    /// Everything, for people.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let packets = self.packets.iter().flat_map(Packets::tables);
        let flips = self.flips.iter().flat_map(Flips::tables);
        let collection = self.collection.iter().flat_map(Collection::tables);
        let live = self.live.iter().flat_map(Live::tables);
        let applications = self.applications.iter().flat_map(Applications::tables);
        let kernel = packets.chain(flips).chain(collection);
        kernel.chain(live).chain(applications).collect()
    }
}

/// The name of a measurement, as an argument.
pub(crate) fn name(argument: &str) -> Result<String, String> {
    let mut names = ALL.iter().map(|it| it.name);
    if names.any(|it| it == argument) {
        return Ok(argument.to_owned());
    }
    let names: Vec<_> = ALL.iter().map(|it| it.name).collect();
    Err(format!("expected one of {}", names.join(", ")))
}
