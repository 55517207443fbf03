//! Rows for what stays and what moves, and an apply that is cut short after each of its writes.

use std::path::Path;

use super::*;
use crate::config::Limits;

const LIMITS: Limits = Limits {
    flows: 16,
    unanswered: 16,
    services: 8,
    listeners: 8,
    backends: 16,
    maglev_slots: 16_384,
};

/// A configuration of services on VIP 192.0.2.1, each with a port and blue backends by last octet.
fn config(services: &[(&str, u16, &[u8])]) -> Config {
    use std::fmt::Write as _;
    let mut text = "[agent]\ninterfaces = [\"eth0\"]\n".to_owned();
    for (name, port, backends) in services {
        let blue: Vec<String> = backends
            .iter()
            .map(|last| format!("{{ address = \"198.51.100.{last}\", port = 80 }}"))
            .collect();
        write!(
            text,
            "[[service]]\nname = \"{name}\"\n[[service.listener]]\nname = \"l\"\n\
             vip = \"192.0.2.1\"\nport = {port}\nprotocol = \"tcp\"\nblue = [{}]\n",
            blue.join(", ")
        )
        .expect("a String takes everything");
    }
    Config::parse(Path::new("test.toml"), &text).expect("a valid configuration")
}

fn apply(old: &Image, config: &Config) -> Image {
    evolve(old, config, &Busy::default(), &LIMITS)
        .expect("room for all")
        .image
}

/// Backends that packets to a listener reach.
fn reached(image: &Image, port: u16) -> Vec<String> {
    let (_, id) = image
        .listeners
        .iter()
        .find(|(key, _)| key.port_be == port.to_be() && key.protocol != 0)
        .expect("the listener");
    let record = image.records[*id as usize];
    assert_ne!(record.flags & LISTENER_PRESENT, 0, "the listener's record");
    let slots = image.slots(record.tables[0]).expect("the table");
    let mut addresses: Vec<String> = slots
        .iter()
        .map(|id| image.backends[*id as usize].address.to_ip().to_string())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[test]
fn an_image_evolves_into_itself() {
    let wanted = config(&[("web", 80, &[1, 2]), ("api", 81, &[3])]);
    let image = apply(&Image::default(), &wanted);
    assert!(image.matches(&wanted, &LIMITS));
    assert!(!image.matches(&config(&[("web", 80, &[1])]), &LIMITS));
}

#[test]
fn what_stays_keeps_its_id_and_its_table() {
    let before = apply(
        &Image::default(),
        &config(&[("web", 80, &[1, 2]), ("api", 81, &[3])]),
    );
    let evolved = evolve(
        &before,
        &config(&[
            ("new", 79, &[9]),
            ("web", 80, &[1, 2]),
            ("api", 81, &[3, 4]),
        ]),
        &Busy::default(),
        &LIMITS,
    )
    .expect("room for all");
    for name in ["web", "api"] {
        assert_eq!(evolved.image.service_id(name), before.service_id(name));
    }
    assert_eq!(
        evolved.slots.len(),
        2,
        "only new's and api's tables are written"
    );
    assert_eq!(
        reached(&evolved.image, 80),
        ["198.51.100.1", "198.51.100.2"]
    );
    assert_eq!(
        reached(&evolved.image, 81),
        ["198.51.100.3", "198.51.100.4"]
    );
}

#[test]
fn an_id_that_flows_refer_to_is_not_given_out_again() {
    let before = apply(&Image::default(), &config(&[("web", 80, &[1])]));
    let removed = (0..)
        .zip(&before.backends)
        .find(|(_, backend)| backend.present != 0)
        .map(|(id, _)| id)
        .expect("a backend");
    let busy = Busy {
        backends: [removed].into(),
        services: HashSet::new(),
    };
    let without = evolve(&before, &config(&[("api", 81, &[2])]), &busy, &LIMITS).expect("room");
    let again = evolve(
        &without.image,
        &config(&[("api", 81, &[2, 3])]),
        &busy,
        &LIMITS,
    );
    let after = again.expect("room").image;
    assert_eq!(
        after.backends[removed as usize].address,
        before.backends[removed as usize].address
    );
    assert_eq!(after.backends[removed as usize].present, 0);
}

#[test]
fn every_backend_leads_to_the_next_of_its_ring() {
    let image = apply(
        &Image::default(),
        &config(&[("web", 80, &[1, 2, 3]), ("api", 81, &[4])]),
    );
    let present = (0_u32..)
        .zip(&image.backends)
        .filter(|(_, backend)| backend.present != 0);
    for (id, backend) in present {
        let mut at = backend.next;
        let mut round = 1;
        while at != id {
            at = image.backends[at as usize].next;
            round += 1;
            assert!(round <= 3, "the ring of backend {id} does not close");
        }
        let expected = if backend.address.to_ip().to_string() == "198.51.100.4" {
            1
        } else {
            3
        };
        assert_eq!(round, expected, "backend {id}");
    }
}

#[test]
fn a_limit_that_is_reached_is_named() {
    let many: Vec<u8> = (1..=17).collect();
    let error = evolve(
        &Image::default(),
        &config(&[("web", 80, &many)]),
        &Busy::default(),
        &LIMITS,
    );
    assert!(matches!(
        error,
        Err(DataPathError::Full {
            what: "backends",
            limit: 16
        })
    ));
}

/// The maps after the first `writes` of the writes of `Tables::install`.
fn cut_short(old: &Image, evolved: &Evolved, writes: usize) -> Image {
    let new = &evolved.image;
    let mut image = old.clone();
    if writes > 0 {
        image.names.clone_from(&new.names);
    }
    if writes > 1 {
        image.backends.clone_from(&new.backends);
    }
    if writes > 2 {
        image.maglev = merged(&old.maglev, &evolved.slots);
    }
    if writes > 3 {
        image.listeners.extend(&new.listeners);
    }
    if writes > 4 {
        image.records.clone_from(&new.records);
    } else {
        // What an agent reads back ends with the last slot that a record refers to.
        image.maglev.truncate(old.maglev.len());
    }
    image
}

#[test]
fn an_apply_that_was_cut_short_is_finished_by_the_next_one() {
    let first = apply(
        &Image::default(),
        &config(&[("web", 80, &[1, 2]), ("api", 81, &[3])]),
    );
    let rows: [(&str, Image, Config); 3] = [
        (
            "the first one",
            Image::default(),
            config(&[("web", 80, &[1, 2])]),
        ),
        (
            "a backend replaced",
            first.clone(),
            config(&[("web", 80, &[1, 9]), ("api", 81, &[3])]),
        ),
        (
            "a service added",
            first,
            config(&[("web", 80, &[1, 2]), ("api", 81, &[3]), ("new", 82, &[4])]),
        ),
    ];
    for (what, old, wanted) in rows {
        let evolved = evolve(&old, &wanted, &Busy::default(), &LIMITS).expect("room for all");
        for writes in 0..=5 {
            let crashed = cut_short(&old, &evolved, writes);
            let after = apply(&crashed, &wanted);
            for service in &wanted.services {
                let listener = &service.listeners[0];
                let expected: Vec<String> = listener
                    .blue
                    .iter()
                    .map(|backend| backend.address.to_string())
                    .collect();
                assert_eq!(
                    reached(&after, listener.port),
                    expected,
                    "{what}, cut after {writes} writes: {}",
                    service.name
                );
            }
        }
    }
}
