//! What the program is ordered to do with packets of flows that it knows, and of those that begin.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use switcher_common::{
    address::WideAddress,
    cut::{Action, CutOrder, Hold},
    service::{Color, ListenerKey},
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
    /// The orders of the backends of `image`, by id, of which there are `len`.
    pub(super) fn of(&self, image: &Image, len: usize) -> Vec<CutOrder> {
        let id_of = |place: Place| image.listeners.get(&listener_key(place)).copied();
        let pauses: Vec<(&HeldListeners, Option<u32>)> = (self.pauses.iter())
            .map(|pause| (pause, pause.listener.and_then(id_of)))
            .collect();
        let ejected: BTreeSet<_> = (self.ejected.iter())
            .filter_map(|it| Some((id_of(it.listener)?, it.color as u8, record_key(it.endpoint))))
            .collect();
        let dead: BTreeMap<_, _> = (self.backends.iter())
            .map(|((service, endpoint), order)| ((*service, record_key(*endpoint)), *order))
            .collect();
        let mut orders = vec![CutOrder::default(); len];
        for (order, backend) in orders.iter_mut().zip(&image.backends) {
            let of = (backend.service, Color::from_bit(backend.color));
            let of_removed = || {
                let record = image.records.get(backend.listener as usize)?;
                Some(CutOrder::new(record.cut_at_end()?, record.removed_until))
            };
            let of_color = self.colors.get(&of).copied();
            let endpoint = (backend.address, backend.port_be);
            let of_backend = dead.get(&(backend.service, endpoint)).copied();
            *order = both(of_color, of_backend)
                .or_else(of_removed)
                .unwrap_or_default();
            if ejected.contains(&(backend.listener, backend.color, endpoint)) {
                *order = order.ejecting();
            }
            for (pause, listener) in &pauses {
                let is_whole = pause.listener.is_none() && pause.service == backend.service;
                if is_whole || *listener == Some(backend.listener) {
                    *order = order.with_hold(pause.hold, pause.until);
                }
            }
        }
        orders
    }
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
    use switcher_common::service::BackendRecord;

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
        orders.of(&image, 1)[0]
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
}
