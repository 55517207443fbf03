//! What readers see: the newest published state, turned into the API's types.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::SystemTime};

use switcher_common::{
    send_error::SendError,
    service::{Color, PerColor, Protocol},
};

use super::{clock, core::Removal, outlook};
use crate::{
    api::{
        instant,
        types::{
            AgentStatus, BackendStatus, DrainEnd, DrainStatus, InterfaceStatus, ListenerStatus,
            NewestChange, PauseStatus, RemovedListenerStatus, SendErrorStatus, ServiceStatus,
            StatusReply, TableStatus, TrafficCount, VerdictCount,
        },
    },
    config::{BackendConfig, CheckConfig, Config, ListenerConfig, ServiceConfig},
    datapath::{Counters, DataPathError, Scan},
    interfaces::Interfaces,
    preflight,
    switching::{Drain, Now, Pause, Service, Switchboard},
};

/// The published state.
#[derive(Clone)]
pub(super) struct View {
    pub(super) config: Arc<Config>,
    pub(super) ids: Arc<BTreeMap<String, u16>>,
    pub(super) board: Switchboard,
    pub(super) scan: Option<Arc<Scan>>,
    pub(super) interfaces: Arc<Interfaces>,
    /// Listeners that are configured no more, and still known.
    pub(super) removed: Arc<[Removal]>,
    /// The disk has answered for the newest state.
    pub(super) is_settled: bool,
    /// When it was published.
    pub(super) at: Now,
    pub(super) started_at: SystemTime,
    pub(super) adopted: bool,
}

/// What a status says of the node rather than of services.
#[derive(Clone)]
pub(super) struct NodeStatus {
    interfaces: Vec<InterfaceStatus>,
    verdicts: Vec<VerdictCount>,
    send_errors: Option<SendErrorStatus>,
}

impl View {
    /// What there is to say of the node.
    pub(super) fn node(&self, counters: &Counters) -> Result<NodeStatus, DataPathError> {
        Ok(NodeStatus {
            interfaces: self.interfaces(),
            verdicts: verdicts(counters)?,
            send_errors: send_errors(counters)?,
        })
    }

    /// The status of the services named in `only`, or of all.
    pub(super) fn status(
        &self,
        only: Option<&[String]>,
        counters: &Counters,
        node: NodeStatus,
    ) -> Result<StatusReply, DataPathError> {
        let services = self
            .config
            .services
            .iter()
            .filter(|service| only.is_none_or(|only| only.contains(&service.name)))
            .filter_map(|service| self.service(service, counters).transpose())
            .collect::<Result<_, _>>()?;
        Ok(StatusReply {
            agent: AgentStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_at: instant::format(self.started_at),
                adopted: self.adopted,
            },
            generation: self.board.generation,
            services,
            removed: (self.removed.iter())
                .filter(|it| only.is_none_or(|only| only.contains(&it.listener.service)))
                .map(|it| removed_listener(it, false))
                .collect(),
            interfaces: node.interfaces,
            verdicts: node.verdicts,
            send_errors: node.send_errors,
            tables: self.tables(),
        })
    }

    fn service(
        &self,
        config: &ServiceConfig,
        counters: &Counters,
    ) -> Result<Option<ServiceStatus>, DataPathError> {
        let (Some(state), Some(&id)) = (
            self.board.services.get(&config.name),
            self.ids.get(&config.name),
        ) else {
            return Ok(None);
        };
        let scan = self.scan.as_ref();
        Ok(Some(ServiceStatus {
            name: config.name.clone(),
            active: state.active,
            standby: state.standby(),
            base: state.base,
            generation: state.generation,
            newest_change: state.newest.map(|newest| NewestChange {
                by: newest.origin,
                from: newest.from,
                forced: newest.forced,
            }),
            confirm_until_at: state.confirm.map(|confirm| rfc3339(confirm.deadline)),
            split_percent: state.split_percent,
            pauses: state.pauses.iter().map(pause).collect(),
            in_flight: scan.map_or_else(PerColor::default, |scan| scan.in_flight(id)),
            preview_flows: self.preview_flows(&config.name),
            traffic: PerColor {
                blue: traffic(counters, id, Color::Blue)?,
                green: traffic(counters, id, Color::Green)?,
            },
            drain: self.drain(&config.name),
            health_settles_ms: config.check.as_ref().map(CheckConfig::settles_ms),
            failover: outlook::failover(config, state, self.at),
            listeners: (config.listeners.iter())
                .map(|it| listener(it, state))
                .collect(),
        }))
    }

    /// Id of a service that is configured no more, while something of it is known.
    pub(super) fn removed_service(&self, name: &str) -> Option<u16> {
        let mut removed = self.removed.iter().map(|it| &it.listener);
        let of = removed.find(|listener| listener.service == name)?;
        Some(of.service_id)
    }

    /// Live flows of a service's preview listeners at the newest scan.
    pub(super) fn preview_flows(&self, service: &str) -> u64 {
        let (scan, id) = (self.scan.as_ref(), self.ids.get(service));
        scan.zip(id).map_or(0, |(scan, id)| scan.preview_flows(*id))
    }

    /// Name of the service with `id`.
    pub(super) fn service_name(&self, id: u16) -> Option<&str> {
        let mut ids = self.ids.iter();
        ids.find(|(_, of)| **of == id)
            .map(|(name, _)| name.as_str())
    }

    /// Name of the interface with `index`.
    pub(super) fn interface_name(&self, index: u32) -> Option<&str> {
        self.interfaces.name(index)
    }

    /// Name of the listener at `endpoint`.
    pub(super) fn listener_name(&self, endpoint: SocketAddr, protocol: Protocol) -> Option<&str> {
        let services = self.config.services.iter();
        let mut listeners = services.flat_map(|service| &service.listeners);
        let at = (endpoint.ip(), endpoint.port(), protocol);
        listeners
            .find(|listener| (listener.vip, listener.port, listener.protocol) == at)
            .map(|listener| listener.name.as_str())
    }

    /// The drain of a service.
    pub(super) fn drain(&self, service: &str) -> Option<DrainStatus> {
        let drain = self.board.services.get(service)?.drain.as_ref()?;
        Some(drain_status(service, drain, self.at))
    }

    fn interfaces(&self) -> Vec<InterfaceStatus> {
        let modes = preflight::attached_modes();
        let mode = |name: &String| modes.get(name).copied().unwrap_or("not attached");
        self.config
            .agent
            .interfaces
            .iter()
            .map(|name| InterfaceStatus {
                name: name.clone(),
                mode: mode(name).to_owned(),
                takes_redirects: self.interfaces.takes_redirects(name),
            })
            .collect()
    }

    fn tables(&self) -> TableStatus {
        let limits = &self.config.agent.limits;
        // Two families, two directions.
        let capacity = |flows: u32| u64::from(flows) * 4;
        TableStatus {
            established_entries: self
                .scan
                .as_ref()
                .map_or(0, |scan| scan.established_entries),
            established_capacity: capacity(limits.flows),
            unanswered_entries: self.scan.as_ref().map_or(0, |scan| scan.unanswered_entries),
            unanswered_capacity: capacity(limits.unanswered),
            evicted_entries: self.scan.as_ref().map_or(0, |scan| scan.evicted_entries),
        }
    }
}

fn rfc3339(instant: Now) -> String {
    instant::format(clock::wall(instant))
}

fn pause(pause: &Pause) -> PauseStatus {
    PauseStatus {
        listener: pause.listener.clone(),
        until_at: rfc3339(pause.until),
        hard: pause.hard,
    }
}

pub(super) fn drain_status(service: &str, drain: &Drain, at: Now) -> DrainStatus {
    let until = drain.ended.map_or(at, |end| end.at);
    DrainStatus {
        service: service.to_owned(),
        color: drain.color,
        generation: drain.generation,
        in_flight: drain.in_flight,
        started_at: rfc3339(drain.started),
        deadline_at: rfc3339(drain.deadline),
        at_deadline: drain.at_deadline,
        ended: drain.ended.map(|end| {
            if end.flows_left == 0 && end.cuts.is_none() {
                DrainEnd::Drained
            } else if drain.finished_by_hand {
                DrainEnd::FinishedNow
            } else {
                DrainEnd::Deadline
            }
        }),
        ended_at: drain.ended.map(|end| rfc3339(end.at)),
        elapsed_ms: until.boot_ms.saturating_sub(drain.started.boot_ms),
        flows_left: drain.ended.map(|end| end.flows_left),
        flows_reset: drain.ended.map(|end| end.cuts.reset()),
        flows_silent: drain.ended.map(|end| end.cuts.silent),
        flows_moved: drain.ended.map(|end| end.cuts.moved),
        first_new_flow_at: (drain.receipt.and_then(|it| it.first_new_flow)).map(rfc3339),
        last_old_packet_at: (drain.receipt.and_then(|it| it.last_old_packet)).map(rfc3339),
        flows_finished: drain.receipt.map(|it| it.counted.flows_finished),
        unpinned_packets: drain.receipt.map(|it| it.counted.unpinned_packets),
    }
}

fn traffic(counters: &Counters, id: u16, color: Color) -> Result<TrafficCount, DataPathError> {
    let stats = counters.traffic(id, color)?;
    Ok(TrafficCount {
        packets: stats.packets,
        bytes: stats.bytes,
        new_flows: stats.new_flows,
        unpinned_packets: stats.unpinned_packets,
    })
}

fn verdicts(counters: &Counters) -> Result<Vec<VerdictCount>, DataPathError> {
    let counts = counters.verdicts()?;
    Ok(counts
        .into_iter()
        .map(|(reason, packets)| VerdictCount {
            verdict: reason.verdict().name().to_owned(),
            reason: reason.name().to_owned(),
            packets,
        })
        .collect())
}

fn send_errors(counters: &Counters) -> Result<Option<SendErrorStatus>, DataPathError> {
    let count = |error| counters.send_errors(error);
    let (Some(redirect_refused), Some(redirect_dropped), Some(transmit_dropped)) = (
        count(SendError::RedirectRefused)?,
        count(SendError::RedirectDropped)?,
        count(SendError::TransmitDropped)?,
    ) else {
        return Ok(None);
    };
    Ok(Some(SendErrorStatus {
        redirect_refused,
        redirect_dropped,
        transmit_dropped,
    }))
}

/// What a status says of a removed listener, or the history when it `is_over`.
pub(super) fn removed_listener(removal: &Removal, is_over: bool) -> RemovedListenerStatus {
    let place = &removal.listener.place;
    RemovedListenerStatus {
        service: removal.listener.service.clone(),
        vip: place.vip.ip(),
        port: place.vip.port(),
        protocol: place.protocol,
        preview: removal.listener.preview,
        in_flight: removal.in_flight,
        until_at: rfc3339(removal.until),
        at_deadline: removal.at_deadline(),
        ended: is_over.then_some(match removal.in_flight {
            Some(0) => DrainEnd::Drained,
            _ => DrainEnd::Deadline,
        }),
    }
}

/// What a status says of a backend.
pub(super) fn backend_status(config: &BackendConfig, state: &Service) -> BackendStatus {
    BackendStatus {
        address: config.address,
        port: config.port,
        weight: config.weight,
        health: state.health_of(config.endpoint()),
        drained: state.drained_backends.contains(&config.endpoint()),
    }
}

fn listener(config: &ListenerConfig, state: &Service) -> ListenerStatus {
    let backends = |color| {
        let backends = config.backends(color).iter();
        backends.map(|it| backend_status(it, state)).collect()
    };
    ListenerStatus {
        name: config.name.clone(),
        vip: config.vip,
        port: config.port,
        protocol: config.protocol,
        preview: config.preview,
        backends: PerColor {
            blue: backends(Color::Blue),
            green: backends(Color::Green),
        },
    }
}
