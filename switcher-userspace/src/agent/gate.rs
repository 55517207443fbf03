//! Who may get fresh flows: the gate of a flip (G6), and which backends leave their tables.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use switcher_common::service::{Color, PerColor};

use crate::{
    config::{BackendConfig, Config, ListenerConfig, ServiceConfig},
    failover::{Candidate, Health, ListenerCount, Standing, kept},
    switching::{Gate, Service, Shortage, Switchboard},
};

/// Whether a backend counts at the gate: it is not drained by hand, and its checks say that it is healthy, or
/// it has none.
pub(super) fn is_eligible(
    backend: &BackendConfig,
    service: &ServiceConfig,
    state: &Service,
    drained: &BTreeSet<SocketAddr>,
) -> bool {
    candidate(backend, service, state, drained).is_eligible()
}

fn candidate(
    backend: &BackendConfig,
    service: &ServiceConfig,
    state: &Service,
    drained: &BTreeSet<SocketAddr>,
) -> Candidate {
    let endpoint = backend.endpoint();
    let is_checked = service.check.is_some();
    Candidate {
        health: is_checked.then(|| state.health_of(endpoint)),
        is_drained: drained.contains(&endpoint),
        is_dead: state.dead.contains_key(&endpoint),
    }
}

/// Counts eligible backends.
pub(super) struct ConfiguredGate<'a> {
    services: HashMap<&'a str, &'a ServiceConfig>,
    board: &'a Switchboard,
}

impl<'a> ConfiguredGate<'a> {
    /// The gate of `config`, with the health that `board` knows.
    pub(super) fn new(config: &'a Config, board: &'a Switchboard) -> Self {
        let services = config.services.iter();
        Self {
            services: services.map(|it| (it.name.as_str(), it)).collect(),
            board,
        }
    }
}

impl Gate for ConfiguredGate<'_> {
    fn shortage(
        &self,
        service: &str,
        color: Color,
        drained: &BTreeSet<SocketAddr>,
    ) -> Option<Shortage> {
        if cfg!(mutant = "no-gate") {
            return None;
        }
        let state = self.board.services.get(service)?;
        let service = self.services.get(service)?;
        let needed = service.min_healthy as usize;
        // A flip waits for this: listeners are looked at only where one can be short, no more backends of them than
        // are needed, and no name is copied for nothing.
        let is_anybody_eligible = service.check.is_none() && drained.is_empty();
        let fewest = service.listeners.fewest_backends(color);
        if is_anybody_eligible && fewest.is_none_or(|it| it >= needed) {
            return None;
        }
        let mut listeners = service.listeners.iter().filter(|it| !it.preview);
        listeners.find_map(|listener| {
            let eligible = (listener.backends(color).iter())
                .filter(|backend| is_eligible(backend, service, state, drained))
                .take(needed)
                .count();
            (eligible < needed).then(|| Shortage {
                listener: listener.name.clone(),
                eligible,
                min_healthy: service.min_healthy,
            })
        })
    }
}

/// What the backends of each color come to for the policy; previews are left out, as at the gate.
pub(super) fn standings(service: &ServiceConfig, state: &Service) -> PerColor<Standing> {
    let counted = |listener: &ListenerConfig, color| {
        let backends: Vec<Candidate> = (listener.backends(color).iter())
            .map(|it| candidate(it, service, state, &state.drained_backends))
            .collect();
        ListenerCount::of(&listener.name, &backends, service.min_healthy)
    };
    PerColor::from_fn(|color| {
        let listeners = service.listeners.iter().filter(|it| !it.preview);
        Standing(listeners.map(|it| counted(it, color)).collect())
    })
}

/// A backend without slots in one list of backends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ejected {
    /// Name of the listener.
    pub(super) listener: String,
    pub(super) color: Color,
    pub(super) endpoint: SocketAddr,
}

/// The unhealthy backends of `service` that leave their tables ([`kept`] says who), list by list: a list that
/// has nobody better keeps them in no other one.
pub(super) fn ejected(service: &ServiceConfig, state: &Service) -> BTreeSet<Ejected> {
    let lists = lists(service, state);
    let out = lists.iter().flat_map(|list| {
        let leave = list.unhealthy.iter().filter(|(_, keeps)| !keeps);
        leave.map(|(endpoint, _)| Ejected {
            listener: list.listener.name.clone(),
            color: list.color,
            endpoint: *endpoint,
        })
    });
    out.collect()
}

/// The unhealthy backends of `service` that get fresh flows all the same, as some list has nobody better.
pub(super) fn retained(service: &ServiceConfig, state: &Service) -> BTreeSet<SocketAddr> {
    let gets_fresh = |list: &&List<'_>| {
        let is_fresh = list.color == state.active || state.split_percent > 0;
        is_fresh && !list.listener.preview
    };
    let lists = lists(service, state);
    let fresh = lists.iter().filter(gets_fresh);
    let unhealthy = fresh.flat_map(|list| list.unhealthy.iter());
    unhealthy
        .filter_map(|(endpoint, keeps)| keeps.then_some(*endpoint))
        .collect()
}

/// The unhealthy backends of a listener and color, of which there are some, and whether they keep their slots.
struct List<'a> {
    listener: &'a ListenerConfig,
    color: Color,
    unhealthy: Vec<(SocketAddr, bool)>,
}

fn lists<'a>(service: &'a ServiceConfig, state: &Service) -> Vec<List<'a>> {
    if service.check.is_none() || cfg!(mutant = "nobody-ejected") {
        return Vec::new();
    }
    let unhealthy = state
        .health
        .iter()
        .filter(|(_, it)| **it == Health::Unhealthy);
    let unhealthy: BTreeSet<SocketAddr> = unhealthy.map(|(endpoint, _)| *endpoint).collect();
    if unhealthy.is_empty() {
        return Vec::new();
    }
    let is_unhealthy = |backend: &BackendConfig| unhealthy.contains(&backend.endpoint());
    let candidate =
        |backend: &BackendConfig| candidate(backend, service, state, &state.drained_backends);
    let mut lists = Vec::new();
    // A flip waits for this, and most listeners of many have nobody to eject.
    let short = service.listeners.iter().filter(|listener| {
        let mut colors = Color::ALL.into_iter();
        colors.any(|color| listener.backends(color).iter().any(is_unhealthy))
    });
    for listener in short {
        let candidates =
            PerColor::from_fn(|color| listener.backends(color).iter().map(candidate).collect());
        let is_shared = listener.preview || state.split_percent > 0;
        let kept = kept(state.active, is_shared, &candidates, service.min_healthy);
        for color in Color::ALL {
            let backends = listener.backends(color).iter();
            let all = backends.zip(kept.get(color).keeps_slots.iter().copied());
            let unhealthy = all.filter(|(it, _)| is_unhealthy(it));
            lists.push(List {
                listener,
                color,
                unhealthy: (unhealthy.map(|(it, keeps)| (it.endpoint(), keeps))).collect(),
            });
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BLUE: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    const GREEN: [&str; 2] = ["10.0.1.1:80", "10.0.1.2:80"];

    fn config(min_healthy: u32) -> Config {
        let list = |all: &[&str]| {
            let each = all.iter().map(|it| {
                let endpoint: SocketAddr = it.parse().expect("an endpoint");
                format!("{{ address = \"{}\", port = 80 }}", endpoint.ip())
            });
            each.collect::<Vec<_>>().join(", ")
        };
        let text = format!(
            r#"[agent]
interfaces = ["eth0"]
[[service]]
name = "web"
min_healthy = {min_healthy}
[service.check]
[[service.listener]]
name = "http"
vip = "192.0.2.10"
port = 80
protocol = "tcp"
blue = [{}]
green = [{}]
"#,
            list(&BLUE),
            list(&GREEN)
        );
        Config::parse(Path::new("test"), &text).expect("a configuration")
    }

    /// Health by letters: `+` healthy, `-` unhealthy, `?` unknown, `d` healthy and drained by hand.
    fn state(blue: &str, green: &str) -> Service {
        let mut state = Service::new(Color::Blue);
        let all = BLUE.iter().zip(blue.chars());
        for (endpoint, letter) in all.chain(GREEN.iter().zip(green.chars())) {
            let endpoint = endpoint.parse().expect("an endpoint");
            let health = match letter {
                '-' => Health::Unhealthy,
                '?' => Health::Unknown,
                _ => Health::Healthy,
            };
            state.health.insert(endpoint, health);
            if letter == 'd' {
                state.drained_backends.insert(endpoint);
            }
        }
        state
    }

    #[test]
    fn unhealthy_backends_leave_unless_that_serves_nobody_better() {
        for (min_healthy, blue, green, out) in [
            (1, "+++", "++", &[][..]),
            (1, "-++", "++", &BLUE[..1]),
            (
                1,
                "--+",
                "-+",
                &["10.0.0.1:80", "10.0.0.2:80", "10.0.1.1:80"],
            ),
            (1, "?+-", "??", &BLUE[2..]),
            // Nobody is known to be good.
            (1, "??-", "??", &[]),
            // Nobody else is left: a table with all of them, until the standby is flipped to.
            (1, "---", "++", &[]),
            (1, "---", "--", &[]),
            (1, "--d", "++", &[]),
            // Too few, and the standby has not enough either.
            (2, "--+", "-+", &["10.0.1.1:80"]),
            (2, "--+", "++", &BLUE[..2]),
            (2, "-++", "--", &BLUE[..1]),
        ] {
            let config = config(min_healthy);
            let found = ejected(&config.services[0], &state(blue, green));
            let found: BTreeSet<SocketAddr> = found.iter().map(|it| it.endpoint).collect();
            let expected: BTreeSet<SocketAddr> = (out.iter())
                .map(|it| it.parse().expect("an endpoint"))
                .collect();
            assert_eq!(found, expected, "{min_healthy} {blue} {green}");
        }
    }

    #[test]
    fn a_list_that_has_nobody_better_keeps_a_backend_in_no_other_list() {
        let mut config = config(1);
        let http = config.services[0].listeners[0].clone();
        let mut other = http.clone();
        other.name = "alone".to_owned();
        other.port = 81;
        other.blue.truncate(1);
        config.services[0].listeners = vec![http, other].into();
        let found = ejected(&config.services[0], &state("-++", "++"));
        let expected = Ejected {
            listener: "http".to_owned(),
            color: Color::Blue,
            endpoint: BLUE[0].parse().expect("an endpoint"),
        };
        assert_eq!(found, BTreeSet::from([expected]));
    }

    #[test]
    fn a_color_without_fresh_flows_keeps_none_of_its_dead() {
        let config = config(1);
        let mut state = state("+++", "--");
        let endpoints = GREEN.map(|it| it.parse::<SocketAddr>().expect("an endpoint"));
        let of = |state: &Service| ejected(&config.services[0], state).len();
        assert_eq!(of(&state), 0, "they fail their checks, and may serve");
        let now = crate::switching::Now {
            boot_ms: 1,
            wall_ms: 1,
        };
        state.dead.extend(endpoints.map(|it| (it, now)));
        assert_eq!(of(&state), 2, "dead");
        state.split_percent = 10;
        assert_eq!(of(&state), 0, "dead, and asked all the same");
        state.split_percent = 0;
        state.active = Color::Green;
        assert_eq!(of(&state), 0, "forced to be active");
    }

    #[test]
    fn only_a_list_that_gets_fresh_flows_retains_whom_it_has_nobody_better_for() {
        let config = config(1);
        let of = |state: &Service| retained(&config.services[0], state).len();
        assert_eq!(of(&state("---", "++")), 3, "the active color");
        let mut short = state("+++", "--");
        assert_eq!(of(&short), 0, "the standby");
        short.split_percent = 10;
        assert_eq!(of(&short), 2, "a standby with a share");
        assert_eq!(of(&state("-++", "++")), 0, "there are better ones");
    }

    #[test]
    fn g6_the_gate_counts_each_listener_and_color_where_nobody_is_checked() {
        let mut config = config(2);
        config.services[0].check = None;
        let http = config.services[0].listeners[0].clone();
        let with = |name: &str, blue: usize, green: usize, preview: bool| ListenerConfig {
            name: name.to_owned(),
            preview,
            blue: http.blue[..blue].to_vec(),
            green: http.green[..green].to_vec(),
            ..http.clone()
        };
        let mut board = Switchboard::default();
        (board.services).insert("web".to_owned(), Service::new(Color::Blue));
        for (others, to, short) in [
            (vec![with("few", 1, 2, false)], Color::Green, None),
            (vec![with("few", 1, 2, false)], Color::Blue, Some("few")),
            (vec![with("preview", 0, 0, true)], Color::Green, None),
            (
                vec![
                    with("fewer", 2, 1, false),
                    with("fewest", 2, 0, false),
                    with("enough", 2, 2, false),
                ],
                Color::Green,
                Some("fewer"),
            ),
        ] {
            let listeners: Vec<_> = [http.clone()].into_iter().chain(others).collect();
            config.services[0].listeners = listeners.into();
            let gate = ConfiguredGate::new(&config, &board);
            let found = gate.shortage("web", to, &BTreeSet::new());
            assert_eq!(found.map(|it| it.listener).as_deref(), short, "{to:?}");
        }
    }

    #[test]
    fn g6_the_gate_counts_healthy_backends_where_they_are_checked() {
        for (green, passes) in [("+-", true), ("--", false), ("??", false), ("dd", false)] {
            let mut config = config(1);
            let state = state("+++", green);
            let drained = state.drained_backends.clone();
            let mut board = Switchboard::default();
            board.services.insert("web".to_owned(), state);
            let shortage = |config: &Config| {
                ConfiguredGate::new(config, &board).shortage("web", Color::Green, &drained)
            };
            assert_eq!(shortage(&config).is_none(), passes, "{green}");
            config.services[0].check = None;
            assert_eq!(
                shortage(&config).is_none(),
                green != "dd",
                "{green}, unchecked"
            );
        }
    }
}
