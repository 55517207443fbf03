//! Packets in pieces, made without the code under test, and the table of first fragments.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use etherparse::{IpFragOffset, Ipv4Header};
use switcher_common::address::{Ipv4, Ipv6};
use switcher_common::packet::{FragmentKey, FragmentPorts};

use crate::packet::{Packet, chain};

/// How a packet is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut<'a> {
    /// Of IPv4 only the lower half.
    pub(crate) identification: u32,
    /// Where a fragment ends and the next one begins, in bytes of what is cut; multiples of eight.
    pub(crate) ends: &'a [usize],
    /// How many of the packet's extension headers come before the fragment header.
    pub(crate) before: usize,
}

impl<'a> Cut<'a> {
    pub(crate) const fn new(identification: u32, ends: &'a [usize]) -> Self {
        Self {
            identification,
            ends,
            before: 0,
        }
    }

    /// The frames of all fragments, in their order.
    pub(crate) fn of(&self, packet: &Packet) -> Result<Vec<Vec<u8>>> {
        let frame = packet.bytes()?;
        let (link, ip) = frame.split_at(packet.ip_offset());
        let packets = if packet.to.is_ipv4() {
            self.ipv4(ip)?
        } else {
            self.ipv6(packet, ip)?
        };
        let frames = packets.into_iter().map(|packet| [link, &packet].concat());
        Ok(frames.collect())
    }

    fn ranges(&self, len: usize) -> impl Iterator<Item = Range<usize>> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let ends = self.ends.iter().copied().chain([len]);
        starts.zip(ends).map(|(start, end)| start..end)
    }

    fn ipv4(&self, ip: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (whole, data) = Ipv4Header::from_slice(ip)?;
        let [_, _, high, low] = self.identification.to_be_bytes();
        let mut packets = Vec::new();
        for range in self.ranges(data.len()) {
            let mut header = whole.clone();
            header.identification = u16::from_be_bytes([high, low]);
            header.more_fragments = range.end < data.len();
            header.fragment_offset = IpFragOffset::try_new(u16::try_from(range.start / 8)?)?;
            header.set_payload_len(range.len())?;
            header.header_checksum = header.calc_header_checksum();
            packets.push([&header.to_bytes()[..], &data[range]].concat());
        }
        Ok(packets)
    }

    fn ipv6(&self, packet: &Packet, ip: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (before, after) = packet.extensions.split_at(self.before);
        let in_each = chain(before, 44);
        let data = &ip[40 + in_each.len()..];
        let next = after
            .first()
            .map_or(packet.protocol as u8, |header| header.number);
        let mut packets = Vec::new();
        for range in self.ranges(data.len()) {
            // The offset in units of eight, three bits further up: the offset in bytes.
            let more = u16::from(range.end < data.len());
            let field = (u16::try_from(range.start)? | more).to_be_bytes();
            let id = self.identification.to_be_bytes();
            let extensions = [&in_each, &[next, 0][..], &field, &id].concat();
            let mut header = ip[..40].to_vec();
            header[6] = before.first().map_or(44, |header| header.number);
            let len = u16::try_from(extensions.len() + range.len())?;
            header[4..6].copy_from_slice(&len.to_be_bytes());
            packets.push([&header, &extensions, &data[range]].concat());
        }
        Ok(packets)
    }
}

/// The tables of first fragments, as they are pinned.
pub(crate) struct Firsts {
    v4: HashMap<MapData, FragmentKey<Ipv4>, FragmentPorts>,
    v6: HashMap<MapData, FragmentKey<Ipv6>, FragmentPorts>,
}

impl Firsts {
    /// Opens the tables that are pinned below `pin_dir`.
    pub(crate) fn open(pin_dir: &Path) -> Result<Self> {
        Ok(Self {
            v4: open(pin_dir, "FRAGMENTS4")?,
            v6: open(pin_dir, "FRAGMENTS6")?,
        })
    }

    /// How many first fragments both tables know.
    pub(crate) fn entries(&self) -> usize {
        self.v4.keys().count() + self.v6.keys().count()
    }

    /// The tick of the newest one.
    pub(crate) fn newest(&self) -> Result<u32> {
        let v4 = self
            .v4
            .iter()
            .map(|entry| entry.map(|(_, ports)| ports.tick));
        let v6 = self
            .v6
            .iter()
            .map(|entry| entry.map(|(_, ports)| ports.tick));
        let ticks = v4.chain(v6).collect::<Result<Vec<_>, _>>()?;
        ticks.into_iter().max().context("no first fragment is kept")
    }

    /// Makes all of them this much older.
    pub(crate) fn age(&mut self, ticks: u32) -> Result<()> {
        age(&mut self.v4, ticks)?;
        age(&mut self.v6, ticks)
    }
}

type Entries<A> = HashMap<MapData, FragmentKey<A>, FragmentPorts>;

fn open<A>(pin_dir: &Path, name: &str) -> Result<Entries<A>>
where
    FragmentKey<A>: Pod,
{
    MapData::from_pin(pin_dir.join("maps").join(name))
        .and_then(Map::from_map_data)
        .and_then(Entries::try_from)
        .with_context(|| format!("opening the pinned map {name}"))
}

fn age<A>(entries: &mut Entries<A>, ticks: u32) -> Result<()>
where
    FragmentKey<A>: Pod,
{
    let all = entries.iter().collect::<Result<Vec<_>, _>>()?;
    for (key, mut ports) in all {
        ports.tick = ports.tick.wrapping_sub(ticks);
        entries.insert(key, ports, 0)?;
    }
    Ok(())
}
