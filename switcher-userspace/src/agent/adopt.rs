//! The switch state at start, from three sources: the kernel's maps are the truth while the kernel
//! runs, the state file is after a reboot, the configuration is where neither knows a service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use switcher_common::service::{Color, ServiceSwitch};

use super::state_file::State;
use crate::{
    api::check::MAX_CONFIRM_MS,
    config::{Config, ServiceConfig},
    failover::{self, Terms},
    switching::{
        Confirm, Cuts, Drain, DrainTerms, Drill, Newest, Now, Origin, Service, Switchboard,
    },
};

/// What the kernel's maps say; empty where the maps are new.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    /// Generation of the node.
    pub(super) generation: u64,
    /// Services that the maps hold.
    pub(super) services: BTreeMap<String, ServiceSwitch>,
    /// Services as an agent left them that died before the disk had its newest changes.
    pub(super) unsaved: BTreeMap<String, Service>,
}

/// The switch state to start with, for the configured services.
pub(super) fn board(
    config: &Config,
    kernel: &Kernel,
    file: Option<&State>,
    boot_id: &str,
    now: Now,
) -> Switchboard {
    let on_disk = file.map(|state| &state.board);
    let same_boot = file.is_some_and(|state| state.boot_id == boot_id);
    let mut board = Switchboard {
        generation: kernel
            .generation
            .max(on_disk.map_or(0, |disk| disk.generation)),
        services: BTreeMap::new(),
    };
    for service in &config.services {
        let from_file = on_disk.and_then(|disk| disk.services.get(&service.name));
        let state = match (kernel.services.get(&service.name), from_file) {
            (Some(switch), file) => {
                let file = file.filter(|_| same_boot);
                let unsaved = kernel.unsaved.get(&service.name);
                adopted(switch, [file, unsaved], now, service)
            }
            (None, Some(file)) => after_reboot(file, service, now),
            (None, None) => Service::new(service.initial_active),
        };
        let mut state = configured_only(state, service);
        if cfg!(mutant = "failover-forgotten") {
            state.failover = failover::State::default();
        }
        board.services.insert(service.name.clone(), state);
    }
    board
}

/// `state` without what it says of backends that are configured no more, and of health that is checked no
/// more.
pub(super) fn configured_only(mut state: Service, config: &ServiceConfig) -> Service {
    let configured: BTreeSet<SocketAddr> = config.endpoints().collect();
    state
        .drained_backends
        .retain(|backend| configured.contains(backend));
    let is_checked = config.check.is_some();
    state
        .health
        .retain(|backend, _| is_checked && configured.contains(backend));
    let health = &state.health;
    state.dead.retain(|backend, _| health.contains_key(backend));
    state
}

/// A service that the kernel switches now. Its terms are those of whoever saw the newest change: the `file`,
/// or what the agent before left in the kernel.
fn adopted(
    kernel: &ServiceSwitch,
    [file, unsaved]: [Option<&Service>; 2],
    now: Now,
    config: &ServiceConfig,
) -> Service {
    let active = Color::from_bit(kernel.active);
    let saw_newest = |it: &&Service| it.generation == kernel.generation && it.active == active;
    let drained_backends = file
        .map(|file| file.drained_backends.clone())
        .unwrap_or_default();
    let health = file.map(|file| file.health.clone()).unwrap_or_default();
    let dead = file.map(|file| file.dead.clone()).unwrap_or_default();
    if let Some(known) = file.filter(saw_newest).or(unsaved.filter(saw_newest)) {
        let is_draining = known.running_drain().is_some();
        return Service {
            // A drain that ended in the kernel alone ends once more.
            base: if is_draining { known.base } else { active },
            split_percent: kernel.split_percent,
            drained_backends,
            health,
            dead,
            failover: match file {
                Some(file) => known.failover.completed(&file.failover).unseen(),
                None => known.failover.clone().unseen(),
            },
            ..known.clone()
        };
    }
    // Nobody saw it, as when the file is gone or old. The newest change, such as a split, may have begun no
    // drain; otherwise the drain begins anew.
    let drain_of = |file: &Service| file.drain.as_ref().map_or(0, |drain| drain.generation);
    let drained =
        file.filter(|file| file.active == active && drain_of(file) == kernel.drain_generation);
    let drain = match drained {
        Some(file) => file.drain.clone(),
        None if kernel.generation > 0 => {
            let terms = DrainTerms {
                timeout_ms: config.drain_timeout.as_millis(),
                at_deadline: config.at_deadline,
            };
            let generation = match kernel.drain_generation {
                0 => kernel.generation,
                generation => generation,
            };
            Some(Drain::begin(active.other(), generation, now, terms))
        }
        None => None,
    };
    let is_draining = drain.as_ref().is_some_and(|drain| drain.ended.is_none());
    let unseen = file.filter(|file| file.active != active).map(|_| Newest {
        origin: Origin::Flip,
        from: active.other(),
        forced: false,
    });
    Service {
        active,
        base: if is_draining {
            Color::from_bit(kernel.base)
        } else {
            active
        },
        generation: kernel.generation,
        newest: unseen.or(file.and_then(|file| file.newest)),
        confirm: None,
        split_percent: kernel.split_percent,
        pauses: Vec::new(),
        drained_backends,
        health,
        dead,
        drain,
        newest_manual: file.and_then(|file| file.newest_manual),
        // A change of the active color ends a drill, whatever it was.
        drill: file
            .filter(|file| file.active == active)
            .and_then(|it| it.drill),
        failover: file
            .map(|file| file.failover.clone().unseen())
            .unwrap_or_default(),
    }
}

/// A service after a reboot, or after its data path was detached: no flow has survived.
fn after_reboot(file: &Service, config: &ServiceConfig, now: Now) -> Service {
    let terms = config.failover.map_or_else(Terms::default, |it| it.terms());
    let age_ms = |at: Now| now.wall_ms.saturating_sub(at.wall_ms);
    let drain = file.drain.clone().map(|mut drain| {
        drain.ended.get_or_insert(crate::switching::End {
            at: now,
            flows_left: 0,
            cuts: Cuts::default(),
        });
        drain
    });
    Service {
        base: file.active,
        drain,
        // Its clock was that of another boot.
        confirm: file.confirm.map(|confirm| Confirm {
            // The clock may have been set back.
            deadline: now.plus_ms(
                (confirm.deadline.wall_ms.saturating_sub(now.wall_ms)).min(MAX_CONFIRM_MS),
            ),
            ..confirm
        }),
        pauses: Vec::new(),
        newest_manual: file
            .newest_manual
            .filter(|at| age_ms(*at) < terms.manual_freeze_ms)
            .map(|at| Now {
                boot_ms: now.boot_ms.saturating_sub(age_ms(at)),
                ..at
            }),
        drill: file.drill.map(|drill| Drill {
            until: now
                .plus_ms((drill.until.wall_ms.saturating_sub(now.wall_ms)).min(MAX_CONFIRM_MS)),
            ..drill
        }),
        failover: file.failover.clone().after_reboot(&terms, now),
        // Backends may have been switched off with the node.
        health: BTreeMap::new(),
        dead: BTreeMap::new(),
        ..file.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NOW: Now = Now {
        boot_ms: 5_000,
        wall_ms: 9_000,
    };

    fn config() -> Config {
        let text = r#"
            [agent]
            interfaces = ["eth0"]
            [[service]]
            name = "web"
            initial_active = "green"
            [[service.listener]]
            name = "http"
            vip = "192.0.2.1"
            port = 80
            protocol = "tcp"
            blue = [{ address = "198.51.100.1", port = 80 }]
            green = [{ address = "198.51.100.2", port = 80 }]
        "#;
        Config::parse(Path::new("test.toml"), text).expect("a valid configuration")
    }

    fn state(boot_id: &str, service: Service) -> State {
        let board = Switchboard {
            generation: service.generation,
            services: [("web".to_owned(), service)].into(),
        };
        serde_json::from_value(
            serde_json::json!({"version": 1, "boot_id": boot_id, "board": board}),
        )
        .expect("a state")
    }

    fn kernel(generation: u64, active: Color, base: Color) -> Kernel {
        let switch = ServiceSwitch {
            generation,
            drain_generation: generation,
            active: active as u8,
            base: base as u8,
            ..ServiceSwitch::default()
        };
        Kernel {
            generation,
            services: [("web".to_owned(), switch)].into(),
            unsaved: BTreeMap::new(),
        }
    }

    fn draining(active: Color, generation: u64) -> Service {
        let terms = DrainTerms {
            timeout_ms: 30_000,
            ..DrainTerms::default()
        };
        Service {
            base: active.other(),
            generation,
            drain: Some(Drain::begin(active.other(), generation, NOW, terms)),
            ..Service::new(active)
        }
    }

    #[test]
    fn a_confirmation_keeps_its_time_over_a_reboot() {
        let waiting = Service {
            confirm: Some(Confirm {
                deadline: Now {
                    boot_ms: 99_000,
                    wall_ms: NOW.wall_ms + 700,
                },
                flip: 7,
            }),
            ..draining(Color::Blue, 7)
        };
        let file = state("old boot", waiting);
        let board = board(&config(), &Kernel::default(), Some(&file), "boot", NOW);
        let confirm = board.services["web"].confirm.expect("it waits still");
        assert_eq!(confirm.deadline, NOW.plus_ms(700));
    }

    #[test]
    fn after_a_reboot_freeze_and_drill_go_on_by_the_wall_clock() {
        let at = |before_ms: u64| Now {
            boot_ms: 99_000,
            wall_ms: NOW.wall_ms - before_ms,
        };
        let drill = Drill {
            generation: 7,
            until: Now {
                boot_ms: 99_000,
                wall_ms: NOW.wall_ms + 700,
            },
            before: None,
        };
        let rebooted = |manual: Now| {
            let service = Service {
                newest_manual: Some(manual),
                drill: Some(drill),
                ..draining(Color::Blue, 7)
            };
            let file = state("old boot", service);
            let board = board(&config(), &Kernel::default(), Some(&file), "boot", NOW);
            board.services["web"].clone()
        };
        let web = rebooted(at(2_000));
        let manual = web.newest_manual.expect("it freezes still");
        assert_eq!((manual.boot_ms, manual.wall_ms), (3_000, 7_000));
        let until = web.drill.expect("it is undone still").until;
        assert_eq!(until, NOW.plus_ms(700));
        let long_ago = Now {
            boot_ms: 99_000,
            wall_ms: 0,
        };
        let later = Now {
            boot_ms: 5_000,
            wall_ms: 60_000,
        };
        let service = Service {
            newest_manual: Some(long_ago),
            ..Service::new(Color::Blue)
        };
        let file = state("old boot", service);
        let board = board(&config(), &Kernel::default(), Some(&file), "boot", later);
        assert_eq!(board.services["web"].newest_manual, None, "it is over");
    }

    #[test]
    fn what_the_kernel_has_of_failovers_is_completed_by_the_disk() {
        let remembered = |flips: &[u64]| -> failover::State {
            let flips: Vec<Now> = flips.iter().map(|ms| NOW.plus_ms(*ms)).collect();
            serde_json::from_value(serde_json::json!({ "flips": flips })).expect("a state")
        };
        let unsaved = Service {
            failover: remembered(&[20, 30]),
            ..draining(Color::Green, 4)
        };
        let kernel = Kernel {
            unsaved: [("web".to_owned(), unsaved)].into(),
            ..kernel(4, Color::Green, Color::Blue)
        };
        let older = Service {
            failover: remembered(&[0, 10, 20]),
            ..Service::new(Color::Blue)
        };
        let file = state("boot", older);
        let adopted = board(&config(), &kernel, Some(&file), "boot", NOW.plus_ms(40));
        let expected = remembered(&[0, 10, 20, 30]);
        assert_eq!(adopted.services["web"].failover, expected);
    }

    #[test]
    fn without_kernel_and_file_the_configuration_decides() {
        let board = board(&config(), &Kernel::default(), None, "boot", NOW);
        assert_eq!(board.services["web"], Service::new(Color::Green));
    }

    #[test]
    fn after_a_reboot_the_file_decides_and_its_drain_is_over() {
        let file = state("old boot", draining(Color::Blue, 7));
        let board = board(&config(), &Kernel::default(), Some(&file), "boot", NOW);
        let web = &board.services["web"];
        assert_eq!(
            (board.generation, web.active, web.base),
            (7, Color::Blue, Color::Blue)
        );
        assert!(web.running_drain().is_none());
    }

    #[test]
    fn while_the_kernel_runs_its_maps_decide() {
        let file = state("boot", Service::new(Color::Blue));
        let board = board(
            &config(),
            &kernel(1, Color::Green, Color::Blue),
            Some(&file),
            "boot",
            NOW,
        );
        let web = &board.services["web"];
        assert_eq!((web.active, web.generation), (Color::Green, 1));
        assert!(
            web.running_drain().is_some(),
            "a flip that the disk did not see drains anew"
        );
        assert_eq!(web.base, Color::Blue);
    }

    #[test]
    fn a_split_that_the_disk_did_not_see_begins_no_drain() {
        let file = state("boot", draining(Color::Green, 4));
        let mut kernel = kernel(5, Color::Green, Color::Blue);
        let web = kernel.services.get_mut("web").expect("a service");
        (web.drain_generation, web.split_percent) = (4, 10);
        let board = board(&config(), &kernel, Some(&file), "boot", NOW.plus_ms(10));
        let web = &board.services["web"];
        assert_eq!((web.generation, web.split_percent), (5, 10));
        let drain = web.running_drain().expect("the one that ran");
        assert_eq!((drain.generation, drain.started), (4, NOW));
    }

    #[test]
    fn a_drain_that_the_disk_did_not_see_is_of_the_flip_that_began_it() {
        let file = state("boot", Service::new(Color::Blue));
        let mut kernel = kernel(7, Color::Green, Color::Blue);
        let web = kernel.services.get_mut("web").expect("a service");
        // A pause came after the flip.
        web.drain_generation = 6;
        let board = board(&config(), &kernel, Some(&file), "boot", NOW);
        let drain = board.services["web"].running_drain().expect("a drain");
        assert_eq!((drain.color, drain.generation), (Color::Blue, 6));
    }

    #[test]
    fn what_an_agent_left_in_the_kernel_counts_while_the_disk_does_not_know_better() {
        let unsaved = Service {
            confirm: Some(Confirm {
                deadline: NOW.plus_ms(700),
                flip: 4,
            }),
            ..draining(Color::Green, 4)
        };
        let kernel = Kernel {
            unsaved: [("web".to_owned(), unsaved.clone())].into(),
            ..kernel(4, Color::Green, Color::Blue)
        };
        let older = state("boot", Service::new(Color::Blue));
        let later = NOW.plus_ms(10_000);
        let adopted = board(&config(), &kernel, Some(&older), "boot", later);
        assert_eq!(adopted.services["web"], unsaved);
        let confirmed = Service {
            confirm: None,
            ..unsaved
        };
        let file = state("boot", confirmed.clone());
        let adopted = board(&config(), &kernel, Some(&file), "boot", later);
        assert_eq!(adopted.services["web"], confirmed);
    }

    #[test]
    fn a_drain_whose_end_only_the_kernel_saw_goes_on_as_it_was() {
        let file = state("boot", draining(Color::Green, 4));
        let kernel = kernel(4, Color::Green, Color::Green);
        let adopted = board(&config(), &kernel, Some(&file), "boot", NOW);
        assert_eq!(adopted.services["web"], draining(Color::Green, 4));
    }

    #[test]
    fn a_drain_that_the_disk_saw_goes_on_with_its_deadline() {
        let file = state("boot", draining(Color::Green, 4));
        let later = NOW.plus_ms(10_000);
        let board = board(
            &config(),
            &kernel(4, Color::Green, Color::Blue),
            Some(&file),
            "boot",
            later,
        );
        let drain = board.services["web"].running_drain().expect("a drain");
        assert_eq!(drain.deadline, NOW.plus_ms(30_000));
    }
}
