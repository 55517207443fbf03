//! The switch state in the kernel's terms, and a scan in the state machine's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use switcher_common::{
    cut::{Action, CutOrder, Hold},
    service::{Color, ServiceSwitch},
};

use crate::{
    agent::{
        clock,
        gate::{Ejected, ejected, retained},
    },
    config::{Config, ListenerConfig, ServiceConfig},
    datapath::{
        ColorTraffic, Counters, DrainedBackend, EjectedBackend, HeldListeners, Orders, Place, Scan,
    },
    switching::{AtDeadline, Counted, Cuts, Observation, Seen, Service, Switchboard, Tally},
};

/// The switch state as the kernel's map holds it, by service id.
pub(in crate::agent) fn encode(
    board: &Switchboard,
    ids: &BTreeMap<String, u16>,
) -> Vec<ServiceSwitch> {
    let highest = ids.values().copied().max().unwrap_or(0);
    let mut states = vec![ServiceSwitch::default(); usize::from(highest) + 1];
    states[0].generation = board.generation;
    for (name, service) in &board.services {
        if let Some(&id) = ids.get(name) {
            states[usize::from(id)] = ServiceSwitch {
                generation: service.generation,
                drain_generation: service.drain.as_ref().map_or(0, |drain| drain.generation),
                active: service.active as u8,
                base: service.base as u8,
                split_percent: service.split_percent,
                reserved: [0; 5],
            };
        }
    }
    states
}

/// The `states` of the node and of the services in `ids`, over those `before`.
pub(in crate::agent) fn overlaid(
    mut before: Vec<ServiceSwitch>,
    states: &[ServiceSwitch],
    ids: &BTreeMap<String, u16>,
) -> Vec<ServiceSwitch> {
    const NODE: u16 = 0;
    for id in ids.values().chain([&NODE]) {
        let id = usize::from(*id);
        if let (Some(old), Some(new)) = (before.get_mut(id), states.get(id)) {
            *old = *new;
        }
    }
    before
}

/// Idle timeouts of a service's UDP flows in milliseconds, by color. A draining color's flows count
/// as finished after a shorter silence (G10).
pub(in crate::agent) fn udp_idle_ms(config: &ServiceConfig, state: &Service) -> [u64; 2] {
    let draining = state.running_drain().map(|drain| drain.color);
    Color::ALL.map(|color| {
        let span = if draining == Some(color) {
            config.drain_udp_idle.min(config.idle.udp)
        } else {
            config.idle.udp
        };
        span.as_millis()
    })
}

/// A scan in the state machine's terms.
pub(in crate::agent) struct Observed<'a> {
    pub(in crate::agent) scan: &'a Scan,
    pub(in crate::agent) began_boot_ms: u64,
    pub(in crate::agent) ids: &'a BTreeMap<String, u16>,
    pub(in crate::agent) counters: &'a Counters,
}

impl Observation for Observed<'_> {
    fn began_boot_ms(&self) -> u64 {
        self.began_boot_ms
    }

    fn seen(&self, service: &str, color: Color, generation: u64) -> Option<Seen> {
        let id = *self.ids.get(service)?;
        let cut = *self.scan.cut(id).get(color);
        let traffic = traffic_of(self.counters, id, color);
        let of_other = traffic_of(self.counters, id, color.other());
        Some(Seen {
            in_flight: *self.scan.in_flight(id).get(color),
            tally: tally(&traffic),
            cut_by_scan: Cuts {
                answered: 0,
                silent: cut.tcp,
                moved: cut.udp,
            },
            newest_packet: traffic.newest_packet_ns.map(clock::instant_of),
            first_new_flow: of_other.first_flow_ns(generation).map(clock::instant_of),
        })
    }
}

/// What the counters say of a color of a service.
pub(in crate::agent) fn tally_of(
    counters: &Counters,
    ids: &BTreeMap<String, u16>,
    service: &str,
    color: Color,
) -> Tally {
    let traffic = ids.get(service).map(|id| traffic_of(counters, *id, color));
    traffic.as_ref().map(tally).unwrap_or_default()
}

fn tally(traffic: &ColorTraffic) -> Tally {
    Tally {
        cut_by_packets: Cuts {
            answered: traffic.reset_flows,
            silent: 0,
            moved: traffic.moved_flows,
        },
        counted: Counted {
            flows_finished: traffic.finished_flows,
            unpinned_packets: traffic.unpinned_packets,
        },
    }
}

/// Traffic of a color. Counters that cannot be read only make a receipt poorer.
fn traffic_of(counters: &Counters, service: u16, color: Color) -> ColorTraffic {
    counters.traffic(service, color).unwrap_or_else(|error| {
        tracing::warn!(%error, "a drain's receipt lacks what was counted");
        ColorTraffic::default()
    })
}

/// The backends that take no fresh flows: drained by hand, or ejected.
pub(in crate::agent) fn without_slots(
    config: &Config,
    board: &Switchboard,
) -> BTreeSet<DrainedBackend> {
    let of_service = |service: &ServiceConfig| -> Vec<DrainedBackend> {
        let Some(state) = board.services.get(&service.name) else {
            return Vec::new();
        };
        let named = |endpoint, list| DrainedBackend {
            service: service.name.clone(),
            endpoint,
            list,
        };
        let drained = (state.drained_backends.iter())
            .filter(|_| !cfg!(mutant = "drained-gets-flows"))
            .map(|endpoint| named(*endpoint, None));
        let ejected = ejected(service, state).into_iter();
        let ejected = ejected.map(|it| named(it.endpoint, Some((it.listener, it.color))));
        drained.chain(ejected).collect()
    };
    config.services.iter().flat_map(of_service).collect()
}

/// All orders to the program that `board` wants.
pub(in crate::agent) fn orders(
    board: &Switchboard,
    ids: &BTreeMap<String, u16>,
    config: &Config,
) -> Orders {
    Orders {
        colors: drain_orders(board, ids),
        backends: ejection_orders(board, ids, config),
        pauses: pauses(board, ids, config),
        ejected: ejected_backends(board, config),
    }
}

/// The ejected backends of all lists.
fn ejected_backends(board: &Switchboard, config: &Config) -> BTreeSet<EjectedBackend> {
    if cfg!(mutant = "ejected-untold") {
        return BTreeSet::new();
    }
    let of_service = |service: &ServiceConfig| -> Vec<EjectedBackend> {
        let Some(state) = board.services.get(&service.name) else {
            return Vec::new();
        };
        let backend = |it: Ejected| {
            let listener = service.listeners.iter().find(|l| l.name == it.listener)?;
            Some(EjectedBackend {
                listener: place(listener),
                color: it.color,
                endpoint: it.endpoint,
            })
        };
        let all = ejected(service, state).into_iter();
        all.filter_map(backend).collect()
    };
    config.services.iter().flat_map(of_service).collect()
}

fn place(listener: &ListenerConfig) -> Place {
    Place {
        vip: SocketAddr::new(listener.vip, listener.port),
        protocol: listener.protocol,
    }
}

/// The orders for the flows of backends that are dead. Where one gets fresh flows all the same, as there is
/// nobody better, its flows stay too: it may be the check that is wrong.
fn ejection_orders(
    board: &Switchboard,
    ids: &BTreeMap<String, u16>,
    config: &Config,
) -> BTreeMap<(u16, SocketAddr), CutOrder> {
    let mut orders = BTreeMap::new();
    for service in &config.services {
        let (Some(state), Some(&id), Some(check)) = (
            board.services.get(&service.name),
            ids.get(&service.name),
            &service.check,
        ) else {
            continue;
        };
        let action = match action(check.at_ejection) {
            None => continue,
            // What it has not answered goes on to others, and must not be reset.
            Some(Action::Reset) if service.second_chance => Action::ResetAnswered,
            Some(action) => action,
        };
        if cfg!(mutant = "dead-keeps-flows") {
            continue;
        }
        let retained = retained(service, state);
        let dead = state.dead.iter().filter(|(it, _)| !retained.contains(it));
        orders.extend(dead.map(|(endpoint, since)| {
            let order = CutOrder::new(action, clock::tick_of(*since));
            ((id, *endpoint), order)
        }));
    }
    orders
}

/// What cuts flows, if something does.
const fn action(at: AtDeadline) -> Option<Action> {
    match at {
        AtDeadline::Keep => None,
        AtDeadline::Reset => Some(Action::Reset),
        AtDeadline::Move => Some(Action::Move),
    }
}

/// The orders to cut flows that the drains of `board` want, by service id and color.
pub(in crate::agent) fn drain_orders(
    board: &Switchboard,
    ids: &BTreeMap<String, u16>,
) -> BTreeMap<(u16, Color), CutOrder> {
    let order = |(name, service): (&String, &Service)| {
        let drain = service.running_drain()?;
        let order = CutOrder::new(action(drain.at_deadline)?, clock::tick_of(drain.deadline));
        Some(((*ids.get(name)?, drain.color), order))
    };
    board.services.iter().filter_map(order).collect()
}

/// The pauses of `board`.
fn pauses(board: &Switchboard, ids: &BTreeMap<String, u16>, config: &Config) -> Vec<HeldListeners> {
    let mut held = Vec::new();
    for service in &config.services {
        let (Some(state), Some(&id)) = (board.services.get(&service.name), ids.get(&service.name))
        else {
            continue;
        };
        for pause in &state.pauses {
            let named = |name: &String| service.listeners.iter().find(|it| it.name == *name);
            let listener = match &pause.listener {
                None => None,
                // A listener that an apply has removed is paused no more.
                Some(name) => match named(name) {
                    Some(it) => Some(place(it)),
                    None => continue,
                },
            };
            held.push(HeldListeners {
                service: id,
                listener,
                hold: if pause.hard { Hold::All } else { Hold::Fresh },
                until: clock::tick_of(pause.until),
            });
        }
    }
    held
}
