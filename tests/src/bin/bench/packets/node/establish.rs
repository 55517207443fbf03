//! Flows that the switcher's own program establishes, and copies of them.

use std::{net::SocketAddr, os::fd::AsFd as _};

use anyhow::{Context as _, Result, ensure};
use switcher_common::{
    address::{Address, Ipv4, Ipv6},
    flow::{FlowEntry, FlowKey},
    reason::Reason,
    service::Protocol,
};
use switcher_tests::{bpf::update_batch, lab::Family};

use super::{
    super::{
        frames::{Ends, Frame, Part, client, frame_len, packet},
        replay::{Ingress, Program},
    },
    AT_ONCE, Flow, Node, key, open,
};

/// Flows that clients and backends establish packet by packet. All others have copies of their entries.
const BY_PACKETS: usize = 256;

impl Node<'_> {
    /// Establishes flows until there are as many in `family`.
    pub(crate) fn establish(&mut self, family: Family, flows: usize) -> Result<()> {
        let have = self.flows(family).len();
        let more = flows.min(BY_PACKETS).saturating_sub(have);
        if more > 0 {
            let before = self.count(Reason::Promoted)?;
            self.establish_by_packets(family, more)
                .with_context(|| format!("establishing {more} flows beside {have}"))?;
            let promoted = self.count(Reason::Promoted)? - before;
            ensure!(
                promoted == more as u64,
                "{promoted} of {more} flows were established; {}",
                self.verdicts()
            );
        }
        match family {
            Family::V4 => self.copy::<Ipv4>(family, "ESTABLISHED4", flows),
            Family::V6 => self.copy::<Ipv6>(family, "ESTABLISHED6", flows),
        }
    }

    /// Copies the oldest flows' entries for other clients until there are so many flows.
    fn copy<A: Address>(&mut self, family: Family, table: &str, flows: usize) -> Result<()>
    where
        FlowKey<A>: aya::Pod,
        FlowEntry<A>: aya::Pod,
    {
        let missing = flows.saturating_sub(self.flows(family).len());
        if missing == 0 {
            return Ok(());
        }
        let raw = open(&self.pin_dir, table)?;
        let originals = self.flows(family)[..BY_PACKETS].to_vec();
        let entries = self.entries::<A>(table, &self.keys(family, &originals))?;
        let clients = self.next_clients(family, missing)?;
        for clients in clients.chunks(AT_ONCE) {
            let originals = originals.iter().cycle();
            let copies = clients.iter().zip(originals);
            let copies: Vec<_> = copies
                .map(|(&client, original)| Flow {
                    client,
                    ..*original
                })
                .collect();
            let keys = self.keys::<A>(family, &copies);
            let values: Vec<_> = entries.iter().copied().cycle().take(keys.len()).collect();
            update_batch(raw.fd().as_fd(), &keys, &values).context("copying flows")?;
            self.flows[family as usize].extend(copies);
        }
        Ok(())
    }

    /// Clients that have no flow yet.
    fn next_clients(&mut self, family: Family, count: usize) -> Result<Vec<SocketAddr>> {
        let host = self.client_host(family);
        let begun = &mut self.begun[family as usize];
        let first = *begun;
        *begun += u32::try_from(count)?;
        (first..*begun).map(|index| client(host, index)).collect()
    }

    fn establish_by_packets(&mut self, family: Family, more: usize) -> Result<()> {
        let vip = self.vip(family, self.protocol);
        let clients = self.next_clients(family, more)?;
        let of_clients = |part| -> Result<Vec<Frame>> {
            let ends = clients.iter().map(|&from| Ends { from, to: vip });
            ends.map(|ends| packet(self.protocol, ends, part)).collect()
        };
        let first = of_clients(Part::First)?;
        self.pass_through(family, 0, &first)?;
        let flows = match family {
            Family::V4 => self.pinned::<Ipv4>("UNANSWERED4", vip, &clients)?,
            Family::V6 => self.pinned::<Ipv6>("UNANSWERED6", vip, &clients)?,
        };
        let answers = flows.iter().map(|flow| Ends {
            from: flow.backend,
            to: flow.client,
        });
        let protocol = self.protocol;
        let answers = answers.map(|ends| packet(protocol, ends, Part::SynAck));
        let answers = answers.collect::<Result<Vec<_>>>()?;
        self.pass_through(family, 1, &answers)?;
        if protocol == Protocol::Tcp {
            let of_clients = clients.iter().map(|&from| Ends { from, to: vip });
            let acks = of_clients.map(|ends| packet(protocol, ends, Part::Ack));
            let acks = acks.collect::<Result<Vec<_>>>()?;
            self.pass_through(family, 0, &acks)?;
        }
        self.flows[family as usize].extend(flows);
        Ok(())
    }

    /// Runs each frame once through the switcher's program.
    fn pass_through(&mut self, family: Family, interface: usize, frames: &[Frame]) -> Result<()> {
        let ingress = Ingress {
            interface: self.interfaces[interface],
            frame_len: frame_len(family),
        };
        self.replay.set_frames(frames, ingress.frame_len)?;
        let count = u32::try_from(frames.len())?;
        self.replay.run(Program::Switcher, ingress, count)?;
        Ok(())
    }

    /// The flows of `clients` that have just begun, with the backends that the program has chosen.
    fn pinned<A: Address>(
        &self,
        table: &str,
        vip: SocketAddr,
        clients: &[SocketAddr],
    ) -> Result<Vec<Flow>>
    where
        FlowKey<A>: aya::Pod,
        FlowEntry<A>: aya::Pod,
    {
        let ends = clients.iter().map(|&from| Ends { from, to: vip });
        let keys: Vec<_> = ends.map(|ends| key(self.protocol, ends)).collect();
        let entries = self.entries::<A>(table, &keys)?;
        let flow = |(&client, entry): (&SocketAddr, &FlowEntry<A>)| {
            let port = u16::from_be(entry.rewrite_port_be);
            Flow {
                client,
                backend: SocketAddr::new(entry.rewrite_addr.wide().to_ip(), port),
            }
        };
        Ok(clients.iter().zip(&entries).map(flow).collect())
    }
}
