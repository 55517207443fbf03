//! What the program is ordered to do with packets of flows that it knows, and of those that begin.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use switcher_common::{
    address::WideAddress,
    cut::{Action, CutOrder, Hold},
    service::{BackendRecord, Color, ListenerKey, ListenerRecord},
};

use super::image::{Image, Place};

/// A pause of a service, or of one of its listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldListeners {
    /// Id of the service.
    pub service: u16,
    /// The listener; absent: all of the service.
    pub listener: Option<Place>,
    /// Which packets are dropped.
    pub hold: Hold,
    /// Tick at which it ends.
    pub until: u32,
}

/// A backend of a listener and color to which no fresh flow goes, before its table follows too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EjectedBackend {
    /// Its listener.
    pub listener: Place,
    /// Its color there.
    pub color: Color,
    /// Address and port.
    pub endpoint: SocketAddr,
}

/// Orders about backends; those of all others are taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Cuts of the flows of a service's color, by service id.
    pub colors: BTreeMap<(u16, Color), CutOrder>,
    /// Cuts of the flows of single backends, by service id and endpoint.
    pub backends: BTreeMap<(u16, SocketAddr), CutOrder>,
    /// Pauses.
    pub pauses: Vec<HeldListeners>,
    /// Backends where no flow begins.
    pub ejected: BTreeSet<EjectedBackend>,
}

impl Orders {
    /// The services of `image` whose backends have other orders by `self` than by `before`, as far as that
    /// can be told without looking at backends.
    pub(super) fn services_unlike(&self, before: &Self, image: &Image) -> BTreeSet<u16> {
        let colors = unlike(&self.colors, &before.colors).map(|((service, _), _)| *service);
        let backends = unlike(&self.backends, &before.backends).map(|((service, _), _)| *service);
        let ejected = self.ejected.symmetric_difference(&before.ejected);
        let ejected = ejected.filter_map(|it| {
            let id = image.listeners.get(&listener_key(it.listener))?;
            Some(image.records.get(*id as usize)?.service)
        });
        let mut services: BTreeSet<u16> = colors.chain(backends).chain(ejected).collect();
        // Their sequence counts too.
        if self.pauses != before.pauses && !cfg!(mutant = "new-pause-unseen") {
            let pauses = self.pauses.iter().chain(&before.pauses);
            services.extend(pauses.map(|pause| pause.service));
        }
        services
    }

    /// The orders of the backends `ids` of `image`.
    pub(super) fn of(&self, image: &Image, ids: impl Iterator<Item = u32>) -> Vec<(u32, CutOrder)> {
        let id_of = |place: Place| image.listeners.get(&listener_key(place)).copied();
        let pauses: Vec<(&HeldListeners, Option<u32>)> = (self.pauses.iter())
            .map(|pause| (pause, pause.listener.and_then(id_of)))
            .collect();
        let ejected: BTreeSet<_> = (self.ejected.iter())
            .filter_map(|it| {
                let id = id_of(it.listener)?;
                let service = image.records.get(id as usize)?.service;
                Some((service, id, it.color as u8, record_key(it.endpoint)))
            })
            .collect();
        let dead: BTreeMap<_, _> = (self.backends.iter())
            .map(|((service, endpoint), order)| ((*service, record_key(*endpoint)), *order))
            .collect();
        let order = |backend: &BackendRecord| {
            let of = (backend.service, Color::from_bit(backend.color));
            let of_removed = || {
                let record = image.records.get(backend.listener as usize)?;
                Some(CutOrder::new(record.cut_at_end()?, record.removed_until))
            };
            let of_color = self.colors.get(&of).copied();
            let endpoint = (backend.address, backend.port_be);
            let of_backend = dead.get(&(backend.service, endpoint)).copied();
            let mut order = both(of_color, of_backend)
                .or_else(of_removed)
                .unwrap_or_default();
            // Backends of a listener that has moved here from another service are that one's.
            let place = (backend.service, backend.listener, backend.color, endpoint);
            if ejected.contains(&place) {
                order = order.ejecting();
            }
            for (pause, listener) in &pauses {
                let is_meant = pause.listener.is_none() || *listener == Some(backend.listener);
                if is_meant && pause.service == backend.service {
                    order = order.with_hold(pause.hold, pause.until);
                }
            }
            order
        };
        let of_id = |id: u32| image.backends.get(id as usize).map(order);
        ids.map(|id| (id, of_id(id).unwrap_or_default())).collect()
    }
}

/// Whether any orders come to the same for both images: the backends and listeners are the same, whatever
/// slots they have.
pub(super) fn are_ordered_alike(one: &Image, other: &Image) -> bool {
    let backend = |it: &BackendRecord| (it.service, it.color, it.listener, it.address, it.port_be);
    let record = |it: &ListenerRecord| (it.service, it.cut_at_end(), it.removed_until);
    (one.backends.iter().map(backend)).eq(other.backends.iter().map(backend))
        && (one.records.iter().map(record)).eq(other.records.iter().map(record))
        && one.listeners == other.listeners
}

/// What is in one of two maps, and not in the other one with the same value.
fn unlike<'a, K: Ord, V: PartialEq>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let only = |one: &'a BTreeMap<K, V>, other: &'a BTreeMap<K, V>| {
        one.iter()
            .filter(|(key, value)| other.get(key) != Some(value))
    };
    let gone = only(other, one).filter(|_| !cfg!(mutant = "old-order-stays"));
    only(one, other).chain(gone)
}

/// The order of a backend whose color has one too.
fn both(of_color: Option<CutOrder>, of_backend: Option<CutOrder>) -> Option<CutOrder> {
    const RESET: u8 = Action::Reset as u8;
    let (Some(color), Some(backend)) = (of_color, of_backend) else {
        return of_color.or(of_backend);
    };
    Some(match (color.action, backend.action) {
        // Moving leaves TCP as it is, which the color's order does not.
        (_, action) if action == Action::Move as u8 => color,
        // What a drain cuts gets no second chance on its color. It begins nothing there: what is left for its own
        // deadline is what began before the backend died.
        (RESET, _) => CutOrder {
            action: RESET,
            ..backend
        },
        _ => backend,
    })
}

/// An endpoint as a [`BackendRecord`] has it.
fn record_key(endpoint: SocketAddr) -> (WideAddress, u16) {
    (WideAddress::from_ip(endpoint.ip()), endpoint.port().to_be())
}

fn listener_key(place: Place) -> ListenerKey {
    let vip = WideAddress::from_ip(place.vip.ip());
    ListenerKey::at(vip, place.vip.port(), place.protocol)
}

#[cfg(test)]
mod tests {
    use switcher_common::service::Protocol;

    use super::*;

    const ENDPOINT: ([u8; 4], u16) = ([198, 51, 100, 1], 80);

    /// The order that a backend of service 1 and blue gets.
    fn order(color: Option<Action>, backend: Option<Action>) -> CutOrder {
        let endpoint = SocketAddr::from(ENDPOINT);
        let image = Image {
            backends: vec![BackendRecord {
                address: WideAddress::from_ip(endpoint.ip()),
                port_be: endpoint.port().to_be(),
                service: 1,
                ..BackendRecord::default()
            }],
            ..Image::default()
        };
        let color = color.map(|it| ((1, Color::Blue), CutOrder::new(it, 500)));
        let backend = backend.map(|it| ((1, endpoint), CutOrder::new(it, 100)));
        let orders = Orders {
            colors: color.into_iter().collect(),
            backends: backend.into_iter().collect(),
            ..Orders::default()
        };
        orders.of(&image, 0..1)[0].1
    }

    #[test]
    fn flows_of_a_dead_backend_do_not_wait_for_the_deadline_of_a_drain() {
        use Action::{Move, Reset, ResetAnswered};
        for (color, backend, expected) in [
            (None, None, CutOrder::default()),
            (Some(Reset), None, CutOrder::new(Reset, 500)),
            (None, Some(Move), CutOrder::new(Move, 100)),
            (Some(Reset), Some(Reset), CutOrder::new(Reset, 100)),
            (Some(Reset), Some(ResetAnswered), CutOrder::new(Reset, 100)),
            (None, Some(ResetAnswered), CutOrder::new(ResetAnswered, 100)),
            (Some(Move), Some(Reset), CutOrder::new(Reset, 100)),
            // Moving leaves TCP as it is, which the drain does not.
            (Some(Reset), Some(Move), CutOrder::new(Reset, 500)),
        ] {
            assert_eq!(order(color, backend), expected, "{color:?} {backend:?}");
        }
    }

    /// Two services, with a listener and a backend of each color each.
    fn two_services() -> Image {
        let mut image = Image::default();
        image.records.push(ListenerRecord::default());
        for service in [1, 2] {
            let listener = u32::from(service);
            let place = place(service);
            image.listeners.insert(listener_key(place), listener);
            image.records.push(ListenerRecord {
                service,
                ..ListenerRecord::default()
            });
            for color in Color::ALL {
                let (address, port_be) = record_key(ENDPOINT.into());
                image.backends.push(BackendRecord {
                    address,
                    port_be,
                    listener,
                    service,
                    color: color as u8,
                    ..BackendRecord::default()
                });
            }
        }
        image
    }

    fn place(service: u16) -> Place {
        Place {
            vip: ([192, 0, 2, 10], service).into(),
            protocol: Protocol::Tcp,
        }
    }

    fn all_orders() -> Vec<Orders> {
        let pause = |service, listener: Option<u16>, until| HeldListeners {
            service,
            listener: listener.map(place),
            hold: Hold::Fresh,
            until,
        };
        let pauses = [
            vec![],
            vec![pause(1, None, 7), pause(1, Some(1), 9)],
            vec![pause(1, Some(1), 9), pause(1, None, 7)],
            vec![pause(2, None, 7)],
        ];
        let colors = [None, Some((1, Color::Blue)), Some((2, Color::Green))];
        let backends = [None, Some((1, 100)), Some((1, 200)), Some((2, 100))];
        let ejected = [None, Some(1), Some(2)];
        let mut all = Vec::new();
        for pauses in &pauses {
            for color in colors {
                for backend in backends {
                    for ejected in ejected {
                        let order = |tick| CutOrder::new(Action::Reset, tick);
                        let ejected = ejected.map(|service| EjectedBackend {
                            listener: place(service),
                            color: Color::Green,
                            endpoint: ENDPOINT.into(),
                        });
                        let backend =
                            backend.map(|(id, tick)| ((id, ENDPOINT.into()), order(tick)));
                        all.push(Orders {
                            colors: color.map(|color| (color, order(500))).into_iter().collect(),
                            backends: backend.into_iter().collect(),
                            pauses: pauses.clone(),
                            ejected: ejected.into_iter().collect(),
                        });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_backend_whose_order_changes_is_of_a_service_that_is_looked_at() {
        let image = two_services();
        let all = all_orders();
        let of = |orders: &Orders| orders.of(&image, 0..4);
        let mut changed = 0;
        for (before, after) in all
            .iter()
            .flat_map(|one| all.iter().map(move |it| (one, it)))
        {
            let services = after.services_unlike(before, &image);
            assert_eq!(services.is_empty(), before == after, "{before:?} {after:?}");
            for ((id, old), (_, new)) in of(before).into_iter().zip(of(after)) {
                let service = image.backends[id as usize].service;
                let is_looked_at = services.contains(&service);
                assert!(old == new || is_looked_at, "{before:?} {after:?} {id}");
                changed += u32::from(old != new);
            }
        }
        assert!(changed > 1_000, "{changed}");
    }

    #[test]
    fn what_is_said_of_a_listener_concerns_no_backend_that_it_had_in_another_service() {
        let mut image = two_services();
        // The listener of service 1 has come from service 2.
        image.backends[0].service = 2;
        let pause = HeldListeners {
            service: 1,
            listener: Some(place(1)),
            hold: Hold::All,
            until: 7,
        };
        let ejected = |color| EjectedBackend {
            listener: place(1),
            color,
            endpoint: ENDPOINT.into(),
        };
        let orders = Orders {
            pauses: vec![pause],
            ejected: Color::ALL.map(ejected).into(),
            ..Orders::default()
        };
        let concerned: Vec<[bool; 2]> = (orders.of(&image, 0..4).into_iter())
            .map(|(_, order)| [order.hold != 0, order.ejected != 0])
            .collect();
        assert_eq!(concerned, [[false; 2], [true; 2], [false; 2], [false; 2]]);
    }

    #[test]
    fn slots_change_no_order_and_another_meaning_of_an_id_does() {
        let image = two_services();
        let mut other = image.clone();
        other.backends[0].next = [1, 1];
        other.backends[0].present = 1;
        other.records[1].tables[0].len = 7;
        assert!(are_ordered_alike(&image, &other));
        let changes: [fn(&mut Image); 5] = [
            |image| image.backends[1].service = 2,
            |image| image.backends[1].port_be += 1,
            |image| image.backends.truncate(3),
            |image| image.records[2] = image.records[2].removed(5, Some(Action::Reset)),
            |image| image.listeners.clear(),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut other = image.clone();
            change(&mut other);
            assert!(!are_ordered_alike(&image, &other), "{at}");
        }
    }
}
