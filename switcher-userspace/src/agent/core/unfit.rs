//! What a configuration is refused for, before anything of it is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use switcher_common::service::{Color, Protocol};

use super::apply::AskedApply;
use crate::{
    api::types::{ApiError, ErrorCode},
    config::{BackendConfig, Config, ListenerConfig},
    switching::Switchboard,
};

/// `[agent]` differs in what cannot change while the agent runs.
pub(super) fn fixed_keys(running: &Config, asked: &AskedApply) -> Result<(), ApiError> {
    let mut keys = running.fixed_keys(&asked.config);
    if !asked.has_own_hooks {
        keys.extend(running.foreign_hooks(&asked.config));
    }
    let Some(first) = keys.first() else {
        return Ok(());
    };
    let differing: Vec<String> = keys
        .iter()
        .map(|it| format!("{} is {}, the file has {}", it.key, it.from, it.to))
        .collect();
    Err(ApiError::new(
        ErrorCode::Refused,
        format!(
            "cannot apply {}: [agent] differs in what cannot change while the agent runs: {}; nothing changed",
            asked.file,
            differing.join("; ")
        ),
        format!("to change {}: {}", first.key, first.remedy),
    ))
}

/// The first listener of `config` whose active color has no backend at all.
pub(in crate::agent) fn empty_listener<'a>(
    config: &'a Config,
    board: &Switchboard,
) -> Option<(&'a str, &'a ListenerConfig, Color)> {
    config.services.iter().find_map(|service| {
        let active = board.services.get(&service.name)?.active;
        let mut listeners = service.listeners.iter().filter(|it| !it.preview);
        let empty = listeners.find(|it| it.backends(active).is_empty())?;
        Some((service.name.as_str(), empty, active))
    })
}

/// What a listener that stays where it is belongs to.
struct Owner<'a> {
    listener: &'a str,
    service: &'a str,
    active: Color,
}

/// The owners of the listeners of `config`, by address, port and protocol.
fn owners<'a>(
    config: &'a Config,
    board: &Switchboard,
) -> BTreeMap<(IpAddr, u16, Protocol), Owner<'a>> {
    let mut owners = BTreeMap::new();
    for service in &config.services {
        let Some(state) = board.services.get(&service.name) else {
            continue;
        };
        owners.extend(service.listeners.iter().map(|listener| {
            let owner = Owner {
                listener: &listener.name,
                service: &service.name,
                active: state.active,
            };
            ((listener.vip, listener.port, listener.protocol), owner)
        }));
    }
    owners
}

/// A listener goes over to another service, as when a service is renamed, and its color would change by that: an
/// apply switches nobody.
pub(super) fn moved_colors(
    running: &Config,
    before: &Switchboard,
    asked: &AskedApply,
    board: &Switchboard,
) -> Result<(), ApiError> {
    let known = owners(running, before);
    let wanted = owners(&asked.config, board);
    let changed = wanted.iter().find_map(|(place, to)| {
        let from = known.get(place)?;
        (from.service != to.service && from.active != to.active).then_some((from, to))
    });
    let Some((from, to)) = changed else {
        return Ok(());
    };
    Err(ApiError::new(
        ErrorCode::Refused,
        format!(
            "cannot apply {}: listener {} goes from {}, where {} is active, to {}, where {} is: its fresh flows would change their color; nothing changed",
            asked.file,
            to.listener,
            from.service,
            from.active.name(),
            to.service,
            to.active.name(),
        ),
        format!(
            "set `initial_active = \"{}\"` if {} is a new service, else flip one of the two before",
            from.active.name(),
            to.service
        ),
    ))
}

/// Fresh flows would be dropped of a listener whose active color has no backend, or has only backends that
/// are drained by hand, or whose standby has a share of the clients and no backend (G6).
pub(super) fn empty_colors(
    running: &Config,
    before: &Switchboard,
    asked: &AskedApply,
    board: &Switchboard,
) -> Result<(), ApiError> {
    let empty = starved(&asked.config, board);
    // What somebody has insisted on before does not stand in the way of everything else.
    let known = starved(running, before);
    match empty.iter().find(|it| !known.contains(it)) {
        None => Ok(()),
        Some(empty) => Err(ApiError::new(
            ErrorCode::Refused,
            format!(
                "cannot apply {}: fresh flows of {} go to {}, and listener {} has no {} backend{}; nothing changed",
                asked.file,
                empty.service,
                empty.color.name(),
                empty.listener,
                empty.color.name(),
                if empty.is_bare {
                    ""
                } else {
                    " that is not drained"
                },
            ),
            "configure backends of that color, resume one, or give all fresh flows to the other color before",
        )),
    }
}

/// A listener, and a color that gets fresh flows of it and could not serve them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Starved<'a> {
    service: &'a str,
    listener: &'a str,
    color: Color,
    /// It has no backend at all, not only drained ones.
    is_bare: bool,
}

fn starved<'a>(config: &'a Config, board: &Switchboard) -> BTreeSet<Starved<'a>> {
    let mut all = BTreeSet::new();
    for service in &config.services {
        let Some(state) = board.services.get(&service.name) else {
            continue;
        };
        let is_drained = |backend: &BackendConfig| {
            let endpoint: SocketAddr = (backend.address, backend.port).into();
            state.drained_backends.contains(&endpoint)
        };
        let standby = (state.split_percent > 0).then_some(state.standby());
        for listener in service.listeners.iter().filter(|it| !it.preview) {
            for color in [Some(state.active), standby].into_iter().flatten() {
                let backends = listener.backends(color);
                if backends.iter().all(is_drained) {
                    all.insert(Starved {
                        service: &service.name,
                        listener: &listener.name,
                        color,
                        is_bare: backends.is_empty(),
                    });
                }
            }
        }
    }
    all
}
