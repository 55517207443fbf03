//! Flows by the hundred thousand, put into the tables by batches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use switcher_common::address::{Address, WideAddress};
use switcher_common::clock::{ticks_from_ms, ticks_from_ns};
use switcher_common::flow::{FLAG_PREVIEW, FLAG_UNPINNED, FlowEntry, FlowKey, FlowState, Side};
use switcher_common::scan::Table;
use switcher_common::service::{Color, Protocol};
use switcher_common::stats::{TableStats, Writer};
use switcher_tests::bpf::update_batch;
use switcher_tests::lab::Family;

use crate::rig::Rig;

/// Flows of clients that no other test has, alike but for the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) flows: u32,
    /// Number of the first client.
    pub(crate) first: u32,
    pub(crate) service: u16,
    pub(crate) color: Color,
    pub(crate) state: FlowState,
    pub(crate) protocol: Protocol,
    pub(crate) preview: bool,
    pub(crate) unpinned: bool,
    /// How long they have been silent; below zero, they do not age for as long.
    pub(crate) silent_ms: i64,
    /// How long ago they began; as they were seen last, if zero.
    pub(crate) age_ms: u64,
    pub(crate) backend: u32,
}

/// Keys, and the entry of each.
type Entries<A> = (Vec<FlowKey<A>>, Vec<FlowEntry<A>>);

impl Crowd {
    /// Established TCP flows of blue in service 1.
    pub(crate) const fn new(first: u32, flows: u32) -> Self {
        Self {
            flows,
            first,
            service: 1,
            color: Color::Blue,
            state: FlowState::Established,
            protocol: Protocol::Tcp,
            preview: false,
            unpinned: false,
            silent_ms: -3_600_000,
            age_ms: 0,
            backend: 1,
        }
    }

    /// Makes them what is in the middle of a stream, and was not answered.
    pub(crate) const fn stray(&mut self) {
        self.state = FlowState::Unanswered;
        self.unpinned = true;
    }

    /// Puts both entries of each flow into the table of `family`, `ESTABLISHED` or `UNANSWERED`.
    pub(crate) fn fill(&self, rig: &Rig, family: Family, table: &str) -> Result<()> {
        let name = match family {
            Family::V4 => format!("{table}4"),
            Family::V6 => format!("{table}6"),
        };
        let map = pinned(rig, &name)?;
        let written = match family {
            Family::V4 => {
                let (keys, entries) = self.entries::<switcher_common::address::Ipv4>()?;
                update_batch(map.fd().as_fd(), &keys, &entries)
            }
            Family::V6 => {
                let (keys, entries) = self.entries::<switcher_common::address::Ipv6>()?;
                update_batch(map.fd().as_fd(), &keys, &entries)
            }
        };
        written.with_context(|| format!("filling {name}"))?;
        self.count(rig, family, table)
    }

    /// Counts the entries as inserted, which the program does with its own.
    fn count(&self, rig: &Rig, family: Family, table: &str) -> Result<()> {
        let table = match table {
            "ESTABLISHED" => Table::Established,
            _ => Table::Unanswered,
        };
        let af = match family {
            Family::V4 => switcher_common::address::Ipv4::AF,
            Family::V6 => switcher_common::address::Ipv6::AF,
        };
        let index = TableStats::index(af, table, Writer::Program);
        let map = Map::PerCpuArray(pinned(rig, "TABLE_STATS")?);
        let mut counters = PerCpuArray::<MapData, TableStats>::try_from(map)?;
        let mut cpus = counters.get(&index, 0)?.to_vec();
        let first = cpus.first_mut().context("there is a CPU")?;
        first.inserted += 2 * u64::from(self.flows);
        let cpus = PerCpuValues::try_from(cpus)?;
        Ok(counters.set(index, cpus, 0)?)
    }

    fn entries<A: Address>(&self) -> Result<Entries<A>>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let (mut keys, mut entries) = (Vec::new(), Vec::new());
        let silent = ticks_from_ms(self.silent_ms.unsigned_abs());
        let last_seen = if self.silent_ms < 0 {
            now_ticks()?.wrapping_add(silent)
        } else {
            now_ticks()?.wrapping_sub(silent)
        };
        let created = match self.age_ms {
            0 => last_seen,
            age_ms => now_ticks()?.wrapping_sub(ticks_from_ms(age_ms)),
        };
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        for number in self.first..self.first + self.flows {
            let key = FlowKey {
                src: address::<A>(0x1000_0000 + number),
                dst: address::<A>(0x0fff_0001),
                src_port_be: 1_000_u16.to_be(),
                dst_port_be: 80_u16.to_be(),
                protocol: self.protocol as u8,
                reserved: [0; 3],
            };
            let entry = FlowEntry {
                rewrite_addr: address::<A>(0x0fff_0002),
                rewrite_port_be: 8_080_u16.to_be(),
                last_seen,
                created,
                backend: self.backend,
                service: self.service,
                side: Side::Forward as u8,
                state: self.state as u8,
                color: self.color as u8,
                flags: flag(self.preview, FLAG_PREVIEW) | flag(self.unpinned, FLAG_UNPINNED),
                ..bytemuck::Zeroable::zeroed()
            };
            keys.extend([key, key.peer(&entry)]);
            entries.extend([entry, entry.made_peer(&key)]);
        }
        Ok((keys, entries))
    }
}

/// A map of the data path.
pub(crate) fn pinned(rig: &Rig, name: &str) -> Result<MapData> {
    MapData::from_pin(rig.config.agent.pin_dir.join("maps").join(name))
        .with_context(|| format!("opening the pinned map {name}"))
}

/// An address of `A`'s family with the number `low`.
fn address<A: Address>(low: u32) -> A {
    let v4 = Ipv4Addr::from(low);
    let ip: IpAddr = if A::AF == switcher_common::address::Ipv4::AF {
        v4.into()
    } else {
        let net = Ipv6Addr::new(0x2001, 0xdb8, 0xfade, 0, 0, 0, 0, 0);
        Ipv6Addr::from_bits(net.to_bits() | u128::from(low)).into()
    };
    A::narrow(&WideAddress::from_ip(ip))
}

/// Now, as the program counts it.
pub(crate) fn now_ticks() -> Result<u32> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let ns = u64::try_from(now.tv_sec)? * 1_000_000_000 + u64::try_from(now.tv_nsec)?;
    Ok(ticks_from_ns(ns))
}
