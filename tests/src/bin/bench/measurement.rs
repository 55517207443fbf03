//! The measurements, in the order in which they are made.

use anyhow::Result;
use serde::Serialize;

use crate::{
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
pub(crate) const ALL: &[Measurement] = &[Measurement {
    name: "packets",
    what: "what a packet costs in the kernel",
    make: |plan, measured| {
        measured.packets = Some(packets::measure(plan)?);
        Ok(())
    },
}];

/// What has been measured; absent: it was not asked for, or could not be.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Measured {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) packets: Option<Packets>,
}

impl Measured {
    /// Everything, for people.
    pub(crate) fn tables(&self) -> Vec<Table> {
        let packets = self.packets.iter().flat_map(Packets::tables);
        packets.collect()
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
