//! The flow tables as they are pinned: both entries of a flow, checked against each other.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use switcher_common::address::{Address, Ipv4, Ipv6, WideAddress};
use switcher_common::clock::elapsed;
use switcher_common::flow::{
    FLAG_ALONE, FLAG_REFUSED, FLAG_UNPINNED, FlowEntry, FlowKey, FlowState, Side,
};
use switcher_common::hop::{self, HopWatch, NextHop, Way};
use switcher_common::scan::Table;
use switcher_common::service::Color;

use crate::packet::Packet;

/// `BPF_NOEXIST`: only where there is nothing.
const NO_EXIST: u64 = 1;

/// What a flow's two entries say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) table: Table,
    pub(crate) state: FlowState,
    pub(crate) color: Color,
    pub(crate) backend: SocketAddr,
    pub(crate) service: u16,
    pub(crate) preview: bool,
    pub(crate) unpinned: bool,
    /// Of the client.
    pub(crate) syn_seq: u32,
    /// Whether client and backend have sent a FIN.
    pub(crate) fins: [bool; 2],
}

type Entries<A> = HashMap<MapData, FlowKey<A>, FlowEntry<A>>;

/// The tables of both families.
pub(crate) struct Flows {
    v4: Tables<Ipv4>,
    v6: Tables<Ipv6>,
    watch: Array<MapData, HopWatch>,
}

struct Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    established: Entries<A>,
    unanswered: Entries<A>,
}

impl Flows {
    /// Opens the tables that are pinned below `pin_dir`.
    pub(crate) fn open(pin_dir: &Path) -> Result<Self> {
        Ok(Self {
            v4: Tables {
                established: open(pin_dir, "ESTABLISHED4")?,
                unanswered: open(pin_dir, "UNANSWERED4")?,
            },
            v6: Tables {
                established: open(pin_dir, "ESTABLISHED6")?,
                unanswered: open(pin_dir, "UNANSWERED6")?,
            },
            watch: Map::Array(MapData::from_pin(pin_dir.join("maps/HOP_WATCH"))?).try_into()?,
        })
    }

    /// The flow of a packet on its way from the client; an error when its entries disagree.
    pub(crate) fn of(&self, packet: &Packet) -> Result<Option<Flow>> {
        let context = || format!("the flow of {} > {}", packet.from, packet.to);
        match packet.to {
            SocketAddr::V4(_) => self.v4.flow(&key(packet)),
            SocketAddr::V6(_) => self.v6.flow(&key(packet)),
        }
        .with_context(context)
    }

    /// Everything that both entries of a flow hold, for comparison.
    pub(crate) fn content(&self, packet: &Packet) -> Result<String> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.content(&key(packet)),
            SocketAddr::V6(_) => self.v6.content(&key(packet)),
        }
    }

    /// How many entries all tables have together; a flow has two.
    pub(crate) fn entries(&self) -> usize {
        self.v4.entries() + self.v6.entries()
    }

    /// How many flows have the client's entry alone.
    pub(crate) fn alone(&self) -> Result<usize> {
        Ok(self.v4.alone()? + self.v6.alone()?)
    }

    /// Makes the entry for the replies to a client's packet whose flow began alone, as the first reply would.
    pub(crate) fn complete(&mut self, packet: &Packet) -> Result<()> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.complete(&key(packet)),
            SocketAddr::V6(_) => self.v6.complete(&key(packet)),
        }
    }

    /// Whether the entry of a packet's own direction is there.
    pub(crate) fn has_entry(&self, packet: &Packet) -> Result<bool> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.find(&key(packet)).map(|it| it.is_some()),
            SocketAddr::V6(_) => self.v6.find(&key(packet)).map(|it| it.is_some()),
        }
    }

    /// Age in ticks of the entry that began first.
    pub(crate) fn oldest(&self, now: u32) -> Result<u32> {
        Ok(self.v4.oldest(now)?.max(self.v6.oldest(now)?))
    }

    /// All bytes of all entries, in an order of their own.
    pub(crate) fn bytes(&self) -> Result<Vec<Vec<u8>>> {
        let mut all = self.v4.bytes()?;
        all.extend(self.v6.bytes()?);
        all.sort();
        Ok(all)
    }

    /// Takes the entry of a packet's own direction away, as an LRU that forgets it.
    pub(crate) fn forget(&mut self, packet: &Packet) -> Result<()> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.unanswered.remove(&key(packet))?,
            SocketAddr::V6(_) => self.v6.unanswered.remove(&key(packet))?,
        }
        Ok(())
    }

    /// The tick at which a packet's own direction was last seen.
    pub(crate) fn last_seen(&self, packet: &Packet) -> Result<u32> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.last_seen(&key(packet)),
            SocketAddr::V6(_) => self.v6.last_seen(&key(packet)),
        }
    }

    /// The hop that the entry of a packet's own direction keeps.
    pub(crate) fn hop(&self, packet: &Packet) -> Result<NextHop> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.hop(&key(packet)),
            SocketAddr::V6(_) => self.v6.hop(&key(packet)),
        }
    }

    /// Has the established entry of a packet's own direction keep another hop than its own, which `change` makes of
    /// that. The program believes it for what comes in by the interface `ingress`; `None`: as two CPUs leave it that
    /// write it at once.
    pub(crate) fn change_hop(
        &mut self,
        packet: &Packet,
        ingress: Option<u32>,
        change: impl FnOnce(&mut NextHop),
    ) -> Result<()> {
        let asked = ingress.map(|it| Ok::<_, MapError>((it, self.watch.get(&0, 0)?.epoch)));
        let asked = asked.transpose()?;
        match packet.to {
            SocketAddr::V4(_) => self.v4.change_hop(&key(packet), asked, change),
            SocketAddr::V6(_) => self.v6.change_hop(&key(packet), asked, change),
        }
    }

    /// Ends the agent's word that it watches hops.
    pub(crate) fn end_watch(&mut self) -> Result<()> {
        let watch = self.watch.get(&0, 0)?;
        let long_ago = watch.until.wrapping_sub(u32::MAX / 2);
        let ended = HopWatch {
            until: long_ago,
            ..watch
        };
        Ok(self.watch.set(0, ended, 0)?)
    }

    /// Makes the direction of a packet of a half-open flow as if it was last seen so many ticks earlier.
    pub(crate) fn age(&mut self, packet: &Packet, ticks: u32) -> Result<()> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.age(&key(packet), ticks),
            SocketAddr::V6(_) => self.v6.age(&key(packet), ticks),
        }
    }

    /// Makes the entry of a packet's own direction as another CPU leaves it that has just seen the backend's
    /// answer, and has not come to the other one.
    pub(crate) fn set_answered(&mut self, packet: &Packet, answer_seq: u32) -> Result<()> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.set_answered(&key(packet), answer_seq),
            SocketAddr::V6(_) => self.v6.set_answered(&key(packet), answer_seq),
        }
    }

    /// Takes both entries of a flow away, as if its table were lost.
    pub(crate) fn lose(&mut self, packet: &Packet) -> Result<()> {
        self.lose_reply(packet)?;
        match packet.to {
            SocketAddr::V4(_) => self.v4.lose(&key(packet)),
            SocketAddr::V6(_) => self.v6.lose(&key(packet)),
        }
    }

    /// Takes the entry for a flow's replies away, as if it were evicted.
    pub(crate) fn lose_reply(&mut self, packet: &Packet) -> Result<()> {
        match packet.to {
            SocketAddr::V4(_) => self.v4.lose_peer(&key(packet)),
            SocketAddr::V6(_) => self.v6.lose_peer(&key(packet)),
        }
    }
}

fn open<A>(pin_dir: &Path, name: &str) -> Result<Entries<A>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    MapData::from_pin(pin_dir.join("maps").join(name))
        .and_then(Map::from_map_data)
        .and_then(Entries::try_from)
        .with_context(|| format!("opening the pinned map {name}"))
}

fn key<A: Address>(packet: &Packet) -> FlowKey<A> {
    FlowKey {
        src: A::narrow(&WideAddress::from_ip(packet.from.ip())),
        dst: A::narrow(&WideAddress::from_ip(packet.to.ip())),
        src_port_be: packet.from.port().to_be(),
        dst_port_be: packet.to.port().to_be(),
        protocol: packet.protocol as u8,
        reserved: [0; 3],
    }
}

impl<A: Address> Tables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod + std::fmt::Debug,
{
    fn entries(&self) -> usize {
        self.established.keys().count() + self.unanswered.keys().count()
    }

    fn alone(&self) -> Result<usize> {
        let mut alone = 0;
        for element in &self.unanswered {
            let (key, entry) = element.context("reading a flow table")?;
            let is_alone = entry.may_be_alone() && self.find(&key.peer(&entry))?.is_none();
            alone += usize::from(is_alone);
        }
        Ok(alone)
    }

    fn oldest(&self, now: u32) -> Result<u32> {
        let both = self.established.iter().chain(self.unanswered.iter());
        let mut ages = both.map(|element| Ok(elapsed(now, element?.1.created)));
        ages.try_fold(0, |oldest, age: Result<u32>| Ok(oldest.max(age?)))
    }

    fn bytes(&self) -> Result<Vec<Vec<u8>>>
    where
        FlowKey<A>: bytemuck::Pod,
        FlowEntry<A>: bytemuck::Pod,
    {
        let mut all = Vec::new();
        for (table, map) in [(b"e", &self.established), (b"u", &self.unanswered)] {
            for element in map {
                let (key, entry) = element.context("reading a flow table")?;
                let (key, entry) = (bytemuck::bytes_of(&key), bytemuck::bytes_of(&entry));
                all.push([table, key, entry].concat());
            }
        }
        Ok(all)
    }

    fn find(&self, key: &FlowKey<A>) -> Result<Option<(Table, FlowEntry<A>)>> {
        let established = get(&self.established, key)?;
        let unanswered = get(&self.unanswered, key)?;
        Ok(match (established, unanswered) {
            (None, None) => None,
            (Some(entry), None) => Some((Table::Established, entry)),
            (None, Some(entry)) => Some((Table::Unanswered, entry)),
            (Some(_), Some(_)) => bail!("an entry is in both tables"),
        })
    }

    fn content(&self, key: &FlowKey<A>) -> Result<String> {
        let forward = self.find(key)?.context("there is no such flow")?;
        let reverse = self.find(&key.peer(&forward.1))?;
        Ok(format!("{forward:?} {reverse:?}"))
    }

    fn last_seen(&self, key: &FlowKey<A>) -> Result<u32> {
        let (_, entry) = self.find(key)?.context("there is no such entry")?;
        Ok(entry.last_seen)
    }

    fn hop(&self, key: &FlowKey<A>) -> Result<NextHop> {
        let (_, entry) = self.find(key)?.context("there is no such entry")?;
        Ok(entry.hop)
    }

    fn change_hop(
        &mut self,
        key: &FlowKey<A>,
        asked: Option<(u32, u32)>,
        change: impl FnOnce(&mut NextHop),
    ) -> Result<()> {
        let found = self.established.get(key, 0);
        let mut entry = found.context("no established flow")?;
        change(&mut entry.hop);
        if let Some((ingress, epoch)) = asked {
            let sent = key.translated(&entry);
            let question = hop::Question {
                src: sent.src,
                dst: sent.dst,
                protocol: sent.protocol,
                ingress,
                tos: entry.hop.class,
                ip_len: 0,
            };
            let way = match entry.hop.class & 3 {
                1 => Way::Transmit,
                2 => Way::Redirect,
                _ => bail!("no hop is kept"),
            };
            entry.hop = entry.hop.kept(&question, way, epoch);
        }
        Ok(self.established.insert(key, entry, 0)?)
    }

    fn age(&mut self, key: &FlowKey<A>, ticks: u32) -> Result<()> {
        let mut entry = self.unanswered.get(key, 0).context("no half-open flow")?;
        entry.last_seen = entry.last_seen.wrapping_sub(ticks);
        Ok(self.unanswered.insert(key, entry, 0)?)
    }

    fn set_answered(&mut self, key: &FlowKey<A>, answer_seq: u32) -> Result<()> {
        let mut entry = self.unanswered.get(key, 0).context("no half-open flow")?;
        (entry.state, entry.answer_seq) = (FlowState::Answered as u8, answer_seq);
        Ok(self.unanswered.insert(key, entry, 0)?)
    }

    fn complete(&mut self, key: &FlowKey<A>) -> Result<()> {
        let (table, entry) = self.find(key)?.context("there is no such flow")?;
        ensure!(entry.may_be_alone(), "it has not begun alone");
        let peer = key.peer(&entry);
        Ok(self
            .map(table)
            .insert(peer, entry.made_peer(key), NO_EXIST)?)
    }

    fn lose(&mut self, key: &FlowKey<A>) -> Result<()> {
        let (table, _) = self.find(key)?.context("there is no such flow to lose")?;
        self.map(table).remove(key)?;
        Ok(())
    }

    fn lose_peer(&mut self, key: &FlowKey<A>) -> Result<()> {
        let (table, mut entry) = self.find(key)?.context("there is no such flow to lose")?;
        let peer = key.peer(&entry);
        if entry.may_be_alone() {
            // As one that began with both.
            entry.flags &= !FLAG_ALONE;
            self.map(table).insert(key, entry, 0)?;
            return match self.find(&peer)? {
                Some((table, _)) => Ok(self.map(table).remove(&peer)?),
                None => Ok(()),
            };
        }
        self.map(table).remove(&peer)?;
        Ok(())
    }

    fn map(&mut self, table: Table) -> &mut Entries<A> {
        match table {
            Table::Established => &mut self.established,
            Table::Unanswered => &mut self.unanswered,
        }
    }

    fn flow(&self, key: &FlowKey<A>) -> Result<Option<Flow>> {
        let Some((table, forward)) = self.find(key)? else {
            return Ok(None);
        };
        ensure!(
            matches!(forward.side(), Side::Forward),
            "the client's 5-tuple leads to an entry for replies"
        );
        let peer = key.peer(&forward);
        // What began alone has an entry for its replies when somebody asks for it.
        let alone = (forward.may_be_alone()).then(|| (table, forward.made_peer(key)));
        let began = |entry: &FlowEntry<A>| (entry.created, entry.syn_seq);
        let is_older =
            |reverse: &FlowEntry<A>| alone.is_some() && began(reverse) != began(&forward);
        let found = self.find(&peer)?.filter(|(_, reverse)| !is_older(reverse));
        let found = found.or(alone);
        let (reverse_table, reverse) = found.context("it has no entry for its replies")?;
        ensure!(
            table == reverse_table,
            "its entries lie in two tables: {table:?}, {reverse_table:?}"
        );
        let back = |entry: &FlowEntry<A>| {
            let to = (ip(entry.rewrite_addr), u16::from_be(entry.rewrite_port_be));
            (entry.side(), SocketAddr::from(to))
        };
        let vip = SocketAddr::from((ip(key.dst), u16::from_be(key.dst_port_be)));
        ensure!(
            back(&reverse) == (Side::Reverse, vip),
            "its entry for replies leads to {:?}, not back to {vip}",
            back(&reverse)
        );
        ensure!(
            common(&forward) == common(&reverse),
            "its entries disagree:\n  {forward:?} of the client's packets\n  {reverse:?} of the replies"
        );
        Ok(Some(Flow {
            table,
            state: forward.state(),
            color: forward.color(),
            backend: SocketAddr::new(
                ip(forward.rewrite_addr),
                u16::from_be(forward.rewrite_port_be),
            ),
            service: forward.service,
            preview: forward.is_preview(),
            unpinned: forward.flags & FLAG_UNPINNED != 0,
            syn_seq: forward.syn_seq,
            fins: [forward.fin_end != 0, reverse.fin_end != 0],
        }))
    }
}

/// What both entries of a flow hold alike.
fn common<A: Address>(entry: &FlowEntry<A>) -> impl PartialEq + use<A> {
    (
        [
            entry.syn_seq,
            entry.answer_seq,
            entry.created,
            entry.backend,
        ],
        (entry.service, entry.left, entry.chances),
        // Of a refusal only the entry for replies says, and of a beginning alone only the other one.
        [
            entry.state,
            entry.color,
            entry.flags & !FLAG_REFUSED & !FLAG_ALONE,
        ],
    )
}

fn get<A>(map: &Entries<A>, key: &FlowKey<A>) -> Result<Option<FlowEntry<A>>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    match map.get(key, 0) {
        Ok(entry) => Ok(Some(entry)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error).context("reading a flow table"),
    }
}

fn ip<A: Address>(address: A) -> IpAddr {
    address.wide().to_ip()
}
