//! One walk over the maps: the steps of the program, by the code that it shares with userspace.

use std::net::SocketAddr;

use bytemuck::Zeroable as _;
use switcher_common::{
    address::{Address, WideAddress},
    clock::ticks_from_ns,
    flow::{ACK, Advance, FlowEntry, FlowKey, Next, SYN, Segment, Side},
    reason::Reason,
    scan::Table,
    select::{self, BACKEND_TRIES, FLOW_HASH_SEED, flow_hash},
    service::{
        Color, Edition, EndpointEditions, ListenerKey, ListenerRecord, NO_LISTENER,
        SHARED_ENDPOINT, ServiceSwitch, Standing, VipMarks,
    },
};

use super::{Explained, Explainer, FoundListener, Question, Selection, Tried, Way, Why};
use crate::datapath::{
    clock,
    error::{Attempt as _, DataPathError},
    flow_tables::{FlowTables, FoundFlow, endpoint, found, found_in},
};

impl Explainer {
    pub(super) fn walk<A: Address>(
        &self,
        flows: &FlowTables<A>,
        key: &FlowKey<A>,
    ) -> Result<Explained, DataPathError>
    where
        FlowKey<A>: aya::Pod,
        FlowEntry<A>: aya::Pod,
    {
        let mut walk = Walk {
            maps: self,
            flows,
            key,
            listener: self.listener(key)?,
            hit: flows.find(key)?,
            now: ticks_from_ns(clock::monotonic_ns()),
        };
        walk.hit = walk.instead_of_older(walk.hit)?;
        Ok(Explained {
            listener: walk.listener.map(|(_, _, found)| found),
            to_vip: self.is_vip(&key.dst)?,
            flow: walk.found_flow()?,
            begins: walk.way(true)?,
            mid_stream: key.is_tcp().then(|| walk.way(false)).transpose()?,
        })
    }

    fn listener_id(&self, key: &ListenerKey) -> Result<Option<u32>, DataPathError> {
        found(self.listeners.get(key, 0)).attempt("looking a listener up")
    }

    fn is_vip<A: Address>(&self, address: &A) -> Result<bool, DataPathError> {
        let any = ListenerKey::any_of(address.wide(), A::AF);
        let marks = VipMarks(self.listener_id(&any)?.unwrap_or_default());
        Ok(marks.is_vip(self.edition()?))
    }

    /// Whether no client has `address`.
    fn is_martian<A: Address>(&self, address: &A) -> Result<bool, DataPathError> {
        let any = ListenerKey::any_of(address.wide(), A::AF);
        let of_node = found(self.node_addresses.get(&any, 0));
        let of_node = of_node.attempt("looking an address of the node up")?;
        Ok(address.is_martian() || of_node.is_some() || self.is_vip(address)?)
    }

    /// Which edition of VIPs and endpoints counts.
    fn edition(&self) -> Result<Edition, DataPathError> {
        let record = self.config.get(NO_LISTENER)?;
        Ok(record.unwrap_or_default().edition())
    }

    fn listener<A: Address>(
        &self,
        key: &FlowKey<A>,
    ) -> Result<Option<(ListenerRecord, ServiceSwitch, FoundListener)>, DataPathError> {
        let address = ListenerKey {
            vip: key.dst.wide(),
            port_be: key.dst_port_be,
            protocol: key.protocol,
            af: A::AF,
        };
        let Some(id) = self.listener_id(&address)? else {
            return Ok(None);
        };
        let record = self.config.get(id)?;
        let Some(record) = record.filter(ListenerRecord::is_present) else {
            return Ok(None);
        };
        let switch = self.switch.get(u32::from(record.service))?;
        let switch = switch.ok_or_else(|| contradiction("a service without switch state"))?;
        let found = FoundListener {
            service: record.service,
            preview: record.is_preview(),
            active: Color::from_bit(switch.active),
            base: Color::from_bit(switch.base),
            generation: switch.generation,
        };
        Ok(Some((record, switch, found)))
    }
}

/// A 5-tuple, and what the maps say of it.
struct Walk<'a, A>
where
    FlowKey<A>: aya::Pod,
    FlowEntry<A>: aya::Pod,
{
    maps: &'a Explainer,
    flows: &'a FlowTables<A>,
    key: &'a FlowKey<A>,
    listener: Option<(ListenerRecord, ServiceSwitch, FoundListener)>,
    hit: Option<(Table, FlowEntry<A>)>,
    /// The tick at which it is asked.
    now: u32,
}

impl<A: Address> Walk<'_, A>
where
    FlowKey<A>: aya::Pod,
    FlowEntry<A>: aya::Pod,
{
    fn found_flow(&self) -> Result<Option<FoundFlow>, DataPathError> {
        let Some((table, entry)) = &self.hit else {
            return Ok(None);
        };
        let found = (*table, entry);
        let flow = self
            .flows
            .describe(self.key, found, &self.maps.orders, self.now);
        flow.map(Some)
    }

    /// The way of a packet that begins, or of one in the middle of a stream.
    fn way(&self, begins: bool) -> Result<Way, DataPathError> {
        match &self.hit {
            Some((_, entry)) if self.is_cut(entry)? => self.cut(entry, begins),
            Some((_, entry)) if self.stays(entry, begins) => {
                Ok(self.forward(entry, Why::Pinned, None))
            }
            _ => self.select(begins),
        }
    }

    fn is_cut(&self, entry: &FlowEntry<A>) -> Result<bool, DataPathError> {
        self.maps.orders.cut(self.key, entry, self.now)
    }

    /// The way of a packet of a cut flow.
    fn cut(&self, entry: &FlowEntry<A>, begins: bool) -> Result<Way, DataPathError> {
        match (self.key.is_tcp(), entry.side()) {
            (false, Side::Forward) => self.select(begins),
            (false, Side::Reverse) => Ok(self.forward(entry, Why::Pinned, None)),
            (true, Side::Forward) if begins => self.select(begins),
            (true, _) => Ok(Way::Answer {
                reason: Reason::ResetSent,
                color: entry.color(),
            }),
        }
    }

    /// Whether the packet goes where its flow is pinned, by the rules that the program goes by.
    fn stays(&self, entry: &FlowEntry<A>, begins: bool) -> bool {
        let segment = if !self.key.is_tcp() {
            Segment::default()
        } else if begins {
            // As far as can be from the number of the SYN that began the flow: not that one again.
            Segment {
                flags: SYN,
                seq: entry.syn_seq.wrapping_add(1 << 31),
                ..Segment::default()
            }
        } else {
            Segment {
                flags: ACK,
                seq: entry.next_seq,
                ack: entry.acked,
                payload_len: 1,
            }
        };
        let advance = Advance::of(entry, self.key.is_tcp(), &segment, || None);
        advance.next != Next::Reselect
    }

    fn select(&self, begins: bool) -> Result<Way, DataPathError> {
        let Some((record, switch, found)) = self.listener else {
            return self.reply(begins);
        };
        match record.standing(self.now) {
            Standing::Configured => {}
            Standing::Leaving => return Ok(dropped(Reason::ListenerRemoved)),
            Standing::Gone => return self.reply(begins),
        }
        if self.maps.is_martian(&self.key.src)? {
            return Ok(dropped(Reason::MartianSource));
        }
        let color = select::color(&record, &switch, &self.key.src, begins);
        let why = match (found.preview, begins) {
            (true, _) => Why::Preview,
            (false, true) => Why::Active,
            (false, false) => Why::Base,
        };
        let table = record.tables[color as usize];
        if table.len == 0 {
            return Ok(Way::Drop {
                reason: Reason::NoBackend,
                color: Some(color),
                selection: None,
            });
        }
        let fault = u64::from(cfg!(mutant = "explain-other-backend"));
        let hash = flow_hash(self.key, FLOW_HASH_SEED ^ fault);
        let slot = select::slot(hash, table.len);
        let mut selection = Selection {
            hash,
            slot,
            slots: table.len,
            tried: Vec::new(),
        };
        let first = found_in(&self.maps.maglev, table.start.wrapping_add(slot))?
            .ok_or_else(|| contradiction("a table beyond the last slot"))?;
        let mut id = first;
        let mut reason = Reason::SourceIsBackend;
        for tried in 0..=BACKEND_TRIES {
            let is_last_resort = tried == BACKEND_TRIES;
            if is_last_resort {
                if !self.maps.orders.ejects(first)? {
                    break;
                }
                id = first;
            }
            let backend = found_in(&self.maps.backends, id)?
                .ok_or_else(|| contradiction("a slot with a backend that is not there"))?;
            let entry = FlowEntry {
                rewrite_addr: A::narrow(&backend.address),
                rewrite_port_be: backend.port_be,
                color: color as u8,
                ..FlowEntry::zeroed()
            };
            let is_source = entry.rewrite_addr == self.key.src;
            let ejected = self.maps.orders.ejects(id)?;
            let is_out = ejected && !is_last_resort;
            let free = !is_out && !is_source && self.has_free_reply_tuple(&entry)?;
            selection.tried.push(Tried {
                backend: endpoint(&entry.rewrite_addr, entry.rewrite_port_be),
                free,
                ejected,
            });
            if free {
                return Ok(self.forward(&entry, why, Some(selection)));
            }
            if !is_out && !is_source {
                reason = Reason::ReplyTupleTaken;
            }
            id = backend.next[record.ring(color)];
        }
        Ok(Way::Drop {
            reason,
            color: Some(color),
            selection: Some(selection),
        })
    }

    /// The way of a packet that is to no listener and of no flow.
    fn reply(&self, begins: bool) -> Result<Way, DataPathError> {
        let editions = self.endpoint(self.key)?;
        let Some(editions) = editions.filter(|_| !(begins && self.key.is_tcp())) else {
            return Ok(Way::Pass(Reason::NotOurs));
        };
        if let Some(lacking) = self.lacking(&editions, self.key)? {
            return if self.is_cut(&lacking)? {
                self.cut(&lacking, begins)
            } else {
                Ok(self.forward(&lacking, Why::Pinned, None))
            };
        }
        let edition = self.maps.edition()?;
        let Some(endpoint) = editions.get(edition).copied() else {
            return Ok(Way::Pass(Reason::NotOurs));
        };
        if endpoint.backend == SHARED_ENDPOINT {
            return Ok(dropped(Reason::UnexpectedReply));
        }
        let backend = found_in(&self.maps.backends, endpoint.backend)?
            .ok_or_else(|| contradiction("an endpoint with a backend that is not there"))?;
        let entry = FlowEntry {
            rewrite_addr: A::narrow(&endpoint.vip),
            rewrite_port_be: endpoint.port_be,
            backend: endpoint.backend,
            side: Side::Reverse as u8,
            color: backend.color,
            ..FlowEntry::zeroed()
        };
        match self.flows.find(&self.key.peer(&entry))? {
            Some(_) => Ok(dropped(Reason::ReplyTupleTaken)),
            None => Ok(self.forward(&entry, Why::Repinned, None)),
        }
    }

    /// What the program would put in the place of an older flow's entry for replies.
    fn instead_of_older(
        &self,
        hit: Option<(Table, FlowEntry<A>)>,
    ) -> Result<Option<(Table, FlowEntry<A>)>, DataPathError> {
        let young_reply =
            hit.filter(|(_, it)| it.side() == Side::Reverse && !cfg!(mutant = "explain-leftovers"));
        let Some((Table::Unanswered, entry)) = young_reply else {
            return Ok(hit);
        };
        let client_key = self.key.peer(&entry);
        let client = self.flows.find(&client_key)?.filter(|(_, client)| {
            client.leads_to(&self.key.src, self.key.src_port_be) && client.succeeds(&entry)
        });
        Ok(match client {
            Some((table, client)) => Some((table, client.made_peer(&client_key))),
            None => hit,
        })
    }

    /// What is known of the endpoint that the packets of `reply` come from.
    fn endpoint(&self, reply: &FlowKey<A>) -> Result<Option<EndpointEditions>, DataPathError> {
        let source = ListenerKey {
            vip: reply.src.wide(),
            port_be: reply.src_port_be,
            protocol: reply.protocol,
            af: A::AF,
        };
        found(self.maps.endpoints.get(&source, 0)).attempt("looking an endpoint up")
    }

    /// The entry for the packets of `reply` that the program would make for a flow that lacks it.
    fn lacking(
        &self,
        endpoint: &EndpointEditions,
        reply: &FlowKey<A>,
    ) -> Result<Option<FlowEntry<A>>, DataPathError> {
        for owner in endpoint.owners().into_iter().flatten() {
            let client = FlowKey {
                dst: A::narrow(&owner.vip),
                dst_port_be: owner.port_be,
                ..reply.turned()
            };
            if let Some((_, entry)) = self.flows.find(&client)?
                && entry.leads_to(&reply.src, reply.src_port_be)
            {
                return Ok(Some(entry.made_peer(&client)));
            }
        }
        Ok(None)
    }

    /// Whether the program would find the replies' tuple free, or make it so. By then it has
    /// forgotten the flow that the packet ends, if there is one.
    fn has_free_reply_tuple(&self, entry: &FlowEntry<A>) -> Result<bool, DataPathError> {
        let replies = self.key.peer(entry);
        let owner = match self.flows.find(&replies)? {
            Some((_, owner)) => Some(owner),
            None => match self.endpoint(&replies)? {
                Some(endpoint) => self.lacking(&endpoint, &replies)?,
                None => None,
            },
        };
        let Some(owner) = owner else {
            return Ok(true);
        };
        let is_forgotten = self.hit.as_ref().is_some_and(|(_, own)| {
            replies == *self.key
                || (replies == self.key.peer(own) && own.is_peer_of(self.key, &owner))
        });
        Ok(is_forgotten || owner.gives_way_to(self.key))
    }

    fn forward(&self, entry: &FlowEntry<A>, why: Why, selection: Option<Selection>) -> Way {
        let sent = self.key.translated(entry);
        Way::Forward {
            why,
            color: entry.color(),
            from: endpoint(&sent.src, sent.src_port_be),
            to: endpoint(&sent.dst, sent.dst_port_be),
            selection,
        }
    }
}

/// The key that the program would look up.
pub(super) fn key<A: Address>(question: &Question) -> FlowKey<A> {
    let narrow = |endpoint: SocketAddr| A::narrow(&WideAddress::from_ip(endpoint.ip()));
    FlowKey {
        src: narrow(question.from),
        dst: narrow(question.to),
        src_port_be: question.from.port().to_be(),
        dst_port_be: question.to.port().to_be(),
        protocol: question.protocol as u8,
        reserved: [0; 3],
    }
}

const fn dropped(reason: Reason) -> Way {
    Way::Drop {
        reason,
        color: None,
        selection: None,
    }
}

/// What the program would drop as `inconsistent`.
fn contradiction(what: &str) -> DataPathError {
    DataPathError::Kernel {
        attempt: "looking a packet up in the maps".to_owned(),
        found: format!("the maps contradict each other: {what}"),
    }
}
