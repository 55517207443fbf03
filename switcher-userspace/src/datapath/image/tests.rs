//! Rows for what stays and what moves, and an apply that is cut short after each of its writes.

use std::path::Path;

use switcher_common::{
    address::WideAddress,
    service::{Color, EndpointEditions, NO_LISTENER},
};

use super::*;
use crate::config::Limits;

const LIMITS: Limits = Limits {
    interfaces: 64,
    flows: 16,
    unanswered: 16,
    fragments: 16,
    services: 8,
    listeners: 8,
    backends: 16,
    maglev_slots: 16_384,
    inserts_per_second: 125_000,
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

const NONE: &BTreeSet<DrainedBackend> = &BTreeSet::new();

fn wanted(config: &Config) -> Wanted<'_> {
    Wanted {
        config,
        drained: NONE,
        leaving: Leaving::AT_ONCE,
    }
}

fn apply(old: &Image, config: &Config) -> Image {
    evolve(old, &wanted(config), &Busy::default(), &LIMITS)
        .expect("room for all")
        .image
}

fn is_unchanged(image: &Image, wanted: &Wanted<'_>) -> bool {
    let evolved = evolve(image, wanted, &Busy::default(), &LIMITS).expect("room for all");
    evolved.image == *image && evolved.slots.is_empty()
}

/// Backends that packets to a listener reach.
fn reached(image: &Image, port: u16) -> Vec<String> {
    let (_, id) = image
        .listeners
        .iter()
        .find(|(key, _)| key.port_be == port.to_be() && key.protocol != 0)
        .expect("the listener");
    let record = image.records[*id as usize];
    assert!(record.is_present(), "the listener's record");
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
    let same = config(&[("web", 80, &[1, 2]), ("api", 81, &[3])]);
    let image = apply(&Image::default(), &same);
    assert!(is_unchanged(&image, &wanted(&same)));
    let other = config(&[("web", 80, &[1])]);
    assert!(!is_unchanged(&image, &wanted(&other)));
}

fn service_id(image: &Image, name: &str) -> Option<usize> {
    image
        .names
        .iter()
        .position(|known| known.text() == Some(name))
}

#[test]
fn what_stays_keeps_its_id_and_its_table() {
    let before = apply(
        &Image::default(),
        &config(&[("web", 80, &[1, 2]), ("api", 81, &[3])]),
    );
    let evolved = evolve(
        &before,
        &wanted(&config(&[
            ("new", 79, &[9]),
            ("web", 80, &[1, 2]),
            ("api", 81, &[3, 4]),
        ])),
        &Busy::default(),
        &LIMITS,
    )
    .expect("room for all");
    for name in ["web", "api"] {
        assert_eq!(service_id(&evolved.image, name), service_id(&before, name));
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
        ..Busy::default()
    };
    let api = config(&[("api", 81, &[2])]);
    let without = evolve(&before, &wanted(&api), &busy, &LIMITS).expect("room");
    let api = config(&[("api", 81, &[2, 3])]);
    let again = evolve(&without.image, &wanted(&api), &busy, &LIMITS);
    let after = again.expect("room").image;
    assert_eq!(
        after.backends[removed as usize].address,
        before.backends[removed as usize].address
    );
    assert_eq!(after.backends[removed as usize].present, 0);
}

/// The ring that packets to a blue listener go along, by last octets; `None` when it does not close.
fn ring(image: &Image, port: u16, first: u8) -> Option<Vec<u8>> {
    let (_, listener) = image
        .listeners
        .iter()
        .find(|(key, _)| key.port_be == port.to_be() && key.protocol != 0)?;
    let ring = image.records[*listener as usize].ring(Color::Blue);
    let octet = |id: u32| match image.backends[id as usize].address.to_ip() {
        std::net::IpAddr::V4(address) => address.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    };
    let is_first = |(id, backend): &(u32, &BackendRecord)| {
        backend.present != 0 && backend.listener == *listener && octet(*id) == first
    };
    let (mut at, _) = (0..).zip(&image.backends).find(is_first)?;
    let mut seen = vec![first];
    loop {
        at = image.backends[at as usize].next[ring];
        if octet(at) == first {
            return Some(seen);
        }
        if seen.contains(&octet(at)) {
            return None;
        }
        seen.push(octet(at));
    }
}

#[test]
fn every_backend_leads_to_the_next_of_its_ring() {
    let before = config(&[("web", 80, &[1, 2, 3]), ("api", 81, &[4])]);
    let image = apply(&Image::default(), &before);
    assert_eq!(ring(&image, 80, 1), Some(vec![1, 2, 3]));
    assert_eq!(ring(&image, 80, 3), Some(vec![3, 1, 2]));
    assert_eq!(ring(&image, 81, 4), Some(vec![4]));
}

/// Backends are written before the store that makes an image visible.
#[test]
fn until_an_image_is_visible_the_old_rings_can_be_read() {
    let mut image = apply(&Image::default(), &config(&[("web", 80, &[1, 2, 3])]));
    let mut old_ring = vec![1, 2, 3];
    for backends in [&[1, 3][..], &[1, 2, 3, 4], &[1, 4], &[1], &[1, 2]] {
        let after = apply(&image, &config(&[("web", 80, backends)]));
        let between = Image {
            backends: after.backends.clone(),
            ..image
        };
        assert_eq!(ring(&between, 80, 1), Some(old_ring), "before {backends:?}");
        assert_eq!(ring(&after, 80, 1), Some(backends.to_vec()));
        (image, old_ring) = (after, backends.to_vec());
    }
}

fn last(address: WideAddress) -> u8 {
    match address.to_ip() {
        std::net::IpAddr::V4(address) => address.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    }
}

/// VIPs and backends by last octet, as packets see them.
fn seen(image: &Image) -> (Vec<u8>, Vec<u8>) {
    let edition = image.records[NO_LISTENER as usize].edition();
    let vips = image.addresses.vips.iter();
    let vips = vips.filter(|(_, marks)| marks.is_vip(edition));
    let endpoints = image.addresses.endpoints.iter();
    let endpoints = endpoints.filter(|(_, editions)| editions.get(edition).is_some());
    (
        vips.map(|(key, _)| last(key.vip)).collect(),
        endpoints.map(|(key, _)| last(key.vip)).collect(),
    )
}

#[test]
fn until_an_image_is_visible_the_old_addresses_are_seen() {
    let (web, api) = (("web", 80, &[1, 2][..]), ("api", 81, &[3][..]));
    let other = ("other", 82, &[2, 3][..]);
    let mut image = apply(&Image::default(), &config(&[web]));
    let mut before = (vec![1], vec![1, 2]);
    assert_eq!(seen(&image), before);
    // What is seen in the end, and what an apply that was cut short leaves for the next one.
    for (services, backends) in [
        (&[web, api][..], vec![1, 2, 3]),
        (&[api], vec![3]),
        (&[api, other], vec![2, 3]),
        (&[], vec![]),
        (&[web, other], vec![1, 2, 3]),
        (&[other], vec![2, 3]),
    ] {
        let vips = if services.is_empty() { vec![] } else { vec![1] };
        let config = config(services);
        let evolved =
            evolve(&image, &wanted(&config), &Busy::default(), &LIMITS).expect("room for all");
        let between = cut_short(&image, &evolved, 4);
        assert_eq!(seen(&between), before, "{services:?}");
        assert_eq!(seen(&evolved.image), (vips.clone(), backends.clone()));
        let finished = apply(&between, &config);
        assert_eq!(seen(&finished), (vips.clone(), backends.clone()));
        assert_eq!(finished.addresses.vips.len(), vips.len());
        // What one listener used before stays for flows that began alone, and nothing older.
        let endpoints = finished.addresses.endpoints.keys();
        let octets: BTreeSet<u8> = endpoints.map(|key| last(key.vip)).collect();
        let kept: BTreeSet<u8> = before.1.iter().chain(&backends).copied().collect();
        assert!(octets.is_subset(&kept), "{services:?}: {octets:?}");
        assert!(
            backends.iter().all(|it| octets.contains(it)),
            "{services:?}"
        );
        (image, before) = (finished, (vips, backends));
    }
}

fn drained(service: &str, last: &[u8]) -> BTreeSet<DrainedBackend> {
    let backend = |&last: &u8| DrainedBackend {
        service: service.to_owned(),
        endpoint: ([198, 51, 100, last], 80).into(),
        list: None,
    };
    last.iter().map(backend).collect()
}

#[test]
fn a_drained_backend_has_no_slot_and_nothing_leads_to_it() {
    let config = config(&[("web", 80, &[1, 2, 3]), ("api", 81, &[1, 2])]);
    let before = apply(&Image::default(), &config);
    let drained = drained("web", &[2]);
    let wanted = Wanted {
        config: &config,
        drained: &drained,
        leaving: Leaving::AT_ONCE,
    };
    let image = evolve(&before, &wanted, &Busy::default(), &LIMITS)
        .expect("room for all")
        .image;
    assert_eq!(reached(&image, 80), ["198.51.100.1", "198.51.100.3"]);
    assert_eq!(ring(&image, 80, 1), Some(vec![1, 3]));
    // Its own way leads back into the ring.
    assert_eq!(ring(&image, 80, 2), None);
    // It keeps its id and its weight, and another service's use of it is its own affair.
    let present = |image: &Image| {
        let present = (0_u32..).zip(&image.backends);
        let present = present.filter(|(_, backend)| backend.present != 0);
        present
            .map(|(id, backend)| (id, backend.address, backend.weight))
            .collect::<Vec<_>>()
    };
    assert_eq!(present(&image), present(&before));
    assert_eq!(reached(&image, 81), ["198.51.100.1", "198.51.100.2"]);
    assert!(is_unchanged(&image, &wanted));
    // Back again: the same table as before, as on a node that never drained it.
    assert_eq!(table_of(&apply(&image, &config), 80), table_of(&before, 80));
}

fn table_of(image: &Image, port: u16) -> Vec<u32> {
    let mut listeners = image.listeners.iter();
    let (_, id) = listeners
        .find(|(key, _)| key.port_be == port.to_be() && key.protocol != 0)
        .expect("the listener");
    let range = image.records[*id as usize].tables[0];
    image.slots(range).expect("the table").to_vec()
}

#[test]
fn when_all_backends_are_drained_the_color_has_no_table() {
    let config = config(&[("web", 80, &[1, 2])]);
    let drained = drained("web", &[1, 2]);
    let wanted = Wanted {
        config: &config,
        drained: &drained,
        leaving: Leaving::AT_ONCE,
    };
    let image = evolve(&Image::default(), &wanted, &Busy::default(), &LIMITS)
        .expect("room for all")
        .image;
    assert!(table_of(&image, 80).is_empty());
}

#[test]
fn a_limit_that_is_reached_is_named() {
    let many: Vec<u8> = (1..=17).collect();
    let error = evolve(
        &Image::default(),
        &wanted(&config(&[("web", 80, &many)])),
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
        for addresses in [&new.addresses, &evolved.retiring] {
            image.addresses.vips.extend(&addresses.vips);
            image.addresses.endpoints.extend(&addresses.endpoints);
        }
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
    for (what, old, config) in rows {
        let evolved =
            evolve(&old, &wanted(&config), &Busy::default(), &LIMITS).expect("room for all");
        for writes in 0..=5 {
            let crashed = cut_short(&old, &evolved, writes);
            let after = apply(&crashed, &config);
            for service in &config.services {
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

#[test]
fn a_removed_listener_keeps_its_ids_and_its_service_s_name_until_it_is_ended() {
    let leaves = Leaving {
        others: Some(RemovalTerms {
            until: 7,
            cut_at_end: None,
        }),
        ..Leaving::default()
    };
    let before = apply(
        &Image::default(),
        &config(&[("web", 80, &[1]), ("api", 81, &[2])]),
    );
    let api = config(&[("api", 81, &[2])]);
    let next = |image: &Image, config: &Config, leaving: &Leaving| {
        let wanted = Wanted {
            leaving,
            ..wanted(config)
        };
        evolve(image, &wanted, &Busy::default(), &LIMITS)
    };
    let without = next(&before, &api, &leaves).expect("room").image;
    let removed = without.removed();
    assert_eq!(removed.len(), 1);
    assert_eq!(
        (removed[0].service.as_str(), removed[0].terms.until),
        ("web", 7)
    );
    assert_eq!(without.listeners, before.listeners);
    assert_eq!(without.services(), before.services());
    let is_without_web = |it: &EndpointEditions| {
        let edition = without.records[NO_LISTENER as usize].edition();
        it.get(edition)
            .is_none_or(|it| it.port_be == 81_u16.to_be())
    };
    assert!(without.addresses.endpoints.values().all(is_without_web));

    // It counts for the limit: six more fit beside the two.
    let ports: Vec<(String, u16)> = (90..97).map(|port| (format!("s{port}"), port)).collect();
    let others = |count: usize| {
        let services = ports[..count]
            .iter()
            .map(|(name, port)| (name.as_str(), *port, &[2][..]));
        let services: Vec<_> = [("api", 81, &[2][..])]
            .into_iter()
            .chain(services)
            .collect();
        config(&services)
    };
    assert!(next(&without, &others(6), &leaves).is_ok());
    let full = next(&without, &others(7), &leaves).expect_err("no room");
    assert!(matches!(full, DataPathError::Full { .. }), "{full}");

    let ended = Leaving {
        ended: removed.iter().map(|it| it.place).collect(),
        ..Leaving::default()
    };
    let after = next(&without, &api, &ended).expect("room").image;
    assert!(after.removed().is_empty());
    assert_eq!(after.listeners.len(), 1);
    assert_eq!(after.services().len(), 1);
    assert!(next(&after, &others(7), &leaves).is_ok());
}

/// Backends by last octet whose endpoints are exclusive.
fn exclusive(image: &Image) -> Vec<u8> {
    let edition = image.records[NO_LISTENER as usize].edition();
    let endpoints = image.addresses.endpoints.iter();
    let exclusive = endpoints.filter(|(_, editions)| {
        let record = editions.get(edition);
        record.is_some_and(|record| record.is_exclusive_to(record.backend))
    });
    exclusive.map(|(key, _)| last(key.vip)).collect()
}

#[test]
fn an_endpoint_is_exclusive_while_no_other_backend_there_can_have_flows() {
    let web = ("web", 80, &[1, 2][..]);
    let api = ("api", 81, &[2, 3][..]);
    let alone = apply(&Image::default(), &config(&[web]));
    assert_eq!(exclusive(&alone), [1, 2]);
    let both = apply(&alone, &config(&[web, api]));
    assert_eq!(exclusive(&both), [1, 3]);
    // The removed one's flows may go on: it stays so, also for an apply that does not count them.
    let busy = Busy {
        backends: (0..)
            .zip(&both.backends)
            .filter(|(_, it)| last(it.address) == 2)
            .map(|(id, _)| id)
            .collect(),
        ..Busy::default()
    };
    let next = |image: &Image, busy: &Busy| {
        let evolved = evolve(image, &wanted(&config(&[web])), busy, &LIMITS);
        evolved.expect("room for all").image
    };
    let evolved = evolve(&both, &wanted(&config(&[web])), &Busy::default(), &LIMITS);
    let between = cut_short(&both, &evolved.expect("room for all"), 4);
    let finished = next(&between, &Busy::default());
    assert_eq!(exclusive(&finished), [1], "its flows began meanwhile");
    let without = next(&both, &Busy::default());
    assert_eq!(exclusive(&without), [1], "it was there until now");
    let without = next(&without, &busy);
    assert_eq!(exclusive(&without), [1], "it has flows");
    let without = next(&without, &without.busy());
    assert_eq!(exclusive(&without), [1], "nobody has counted");
    let without = next(&without, &Busy::default());
    assert_eq!(exclusive(&without), [1, 2], "it has none");
    let without = next(&without, &without.busy());
    assert_eq!(exclusive(&without), [1, 2], "it is not taken back");
}
