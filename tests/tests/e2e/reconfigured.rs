//! A configuration that changed between the end of one agent and the start of the next.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use switcher_common::service::{Color, PerColor};
use switcher_tests::{
    lab::{Family, Lab, add_link},
    node::{LabService, Node, configuration},
    skip_unless_lab,
    traffic::{Client, ECHO_PORT, HTTP_PORT, HttpNew, Load, LongLived, Stats},
};

use crate::{mixed::LIMIT, refusal::Refused};

/// Port of the listener that is added to `web`.
pub(crate) const ADDED_PORT: u16 = 81;

/// A service that is added.
pub(crate) fn shop() -> LabService {
    LabService {
        name: "shop",
        ..LabService::web(2)
    }
}

/// At first: `web`, one backend short in green, and `stream`.
fn before(lab: &Lab) -> String {
    let services = [LabService::web(0), LabService::stream(1)];
    let added = last_backend(&lab.green_backends_v4(), HTTP_PORT);
    configuration(lab, &services).replace(&added, "")
}

/// Then: `web` has that backend and one more listener, `stream` has lost a backend of blue and its
/// IPv6 listener, and `shop` is new.
fn after(lab: &Lab) -> Result<String> {
    let services = [LabService::web(0), LabService::stream(1), shop()];
    let removed = last_backend(&lab.blue_backends_v4(), ECHO_PORT);
    let mut text = configuration(lab, &services).replace(&removed, "");
    let listener = listener(lab.vip6(1), "tcp-v6");
    let start = text.find(&listener).context("no listener to remove")?;
    let end = text[start + 1..].find("[[service").map(|it| start + 1 + it);
    text.replace_range(start..end.context("it is the last")?, "");
    let stream = text.find("[[service]]\nname = \"stream\"");
    text.insert_str(stream.context("no service stream")?, &added_listener(lab));
    Ok(text)
}

pub(crate) fn last_backend(addresses: &[std::net::IpAddr], port: u16) -> String {
    let last = addresses.last().map(ToString::to_string);
    format!(
        ", {{ address = \"{}\", port = {port} }}",
        last.unwrap_or_default()
    )
}

fn listener(vip: std::net::IpAddr, name: &str) -> String {
    format!("[[service.listener]]\nname = \"{name}\"\nvip = \"{vip}\"\n")
}

pub(crate) fn added_listener(lab: &Lab) -> String {
    let backend = |color| lab.backends(color, Family::V4)[0];
    let PerColor { blue, green } = PerColor::from_fn(backend);
    listener(lab.vip4(0), "added")
        + &format!(
            "port = {ADDED_PORT}\nprotocol = \"tcp\"\n\
             blue = [{{ address = \"{blue}\", port = {HTTP_PORT} }}]\n\
             green = [{{ address = \"{green}\", port = {HTTP_PORT} }}]\n"
        )
}

/// New requests to `service`, all of which must be answered by `color`.
pub(crate) fn requests(
    lab: &Lab,
    service: &LabService,
    family: Family,
    color: Color,
) -> Result<Stats> {
    let target = service.target(lab, family);
    let load = Client::new(lab.client2()).http_new(target, HttpNew::per_second(100));
    load.wait_until(LIMIT, |stats| stats.answered + stats.failed >= 30)?;
    let stats = load.finish();
    let clean = stats.is_clean() && *stats.per_color.get(color) == stats.answered;
    ensure!(clean, "{}: {:?} {stats:?}", service.name, stats.samples);
    Ok(stats)
}

/// New connections to `stream`.
pub(crate) fn connections(lab: &Lab, family: Family) -> Load {
    let options = LongLived {
        connections: 30,
        interval: Duration::from_millis(50),
        ..LongLived::default()
    };
    Client::new(lab.client2()).long_lived(LabService::stream(1).target(lab, family), options)
}

/// New connections to `stream` over IPv4, all of which must be answered.
pub(crate) fn answered_connections(lab: &Lab) -> Result<Stats> {
    let load = connections(lab, Family::V4);
    load.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    let stats = load.finish();
    ensure!(stats.is_clean(), "{:?}", stats.samples);
    Ok(stats)
}

/// Numbers of the backends that answered fresh connections.
pub(crate) fn backends(stats: &Stats) -> Vec<u32> {
    let mut backends: Vec<u32> = stats.fresh.iter().map(|it| it.backend).collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}

#[test]
fn a_changed_configuration_takes_effect_and_flows_and_colors_stay() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let web = LabService::web(0);
    let mut node = Node::configured(&lab, &before(&lab))?;
    node.start_agent()?;
    node.flip(&["web"], Color::Green)?;
    let seen = requests(&lab, &web, Family::V4, Color::Green)?;
    ensure!(backends(&seen) == [0], "one backend: {seen:?}");
    let lasting = Family::ALL.map(|family| connections(&lab, family));
    for load in &lasting {
        load.wait_until(LIMIT, |stats| stats.fresh.len() == 30)?;
    }
    let on_both = backends(&lasting[0].snapshot());
    ensure!(on_both == [0, 1], "some are on the backend that goes");
    node.stop_agent()?;

    node.reconfigure(&after(&lab)?)?;
    node.start_agent()?;
    let status = node.status()?;
    let adopted = &status["agent"]["adopted"];
    ensure!(*adopted == true && status["generation"] == 1, "{status}");
    for (name, color, generation) in [
        ("web", "green", 1),
        ("stream", "blue", 0),
        ("shop", "blue", 0),
    ] {
        let service = node.service(name)?;
        let is = service["active"] == color && service["generation"] == generation;
        ensure!(is, "{service}");
    }
    takes_effect(&lab)?;
    flows_stay(&node, lasting)
}

fn takes_effect(lab: &Lab) -> Result<()> {
    let web = LabService::web(0);
    let seen = requests(lab, &web, Family::V4, Color::Green)?;
    ensure!(backends(&seen) == [0, 1], "the added backend: {seen:?}");
    let added = LabService {
        port: ADDED_PORT,
        ..web
    };
    requests(lab, &added, Family::V4, Color::Green)?;
    for family in Family::ALL {
        requests(lab, &shop(), family, Color::Blue)?;
    }
    let seen = answered_connections(lab)?;
    ensure!(backends(&seen) == [0], "the removed backend: {seen:?}");
    let refused = connections(lab, Family::V6);
    refused
        .wait_until(LIMIT, |stats| stats.broken == 30)
        .context("the removed listener")
}

/// On removed backends and listeners too.
fn flows_stay(node: &Node<'_>, lasting: [Load; 2]) -> Result<()> {
    for load in &lasting {
        let before = load.snapshot().answered;
        load.wait_until(LIMIT, |stats| stats.answered > before + 100)?;
    }
    node.wait_until("those of both families", |status| {
        status["services"][1]["in_flight"]["blue"] == 60
    })?;
    for load in lasting {
        let stats = load.finish();
        ensure!(stats.is_clean(), "existing flows: {:?}", stats.samples);
    }
    Ok(())
}

#[test]
fn a_start_that_is_refused_leaves_a_pinned_data_path_as_it_was() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let web = LabService::web(0);
    let mut node = Node::start(&lab, std::slice::from_ref(&web))?;
    node.stop_agent()?;
    // Native mode takes no frame that is larger than a page.
    add_link(lab.node(), "big", lab.client(), "big", 9000)?;
    let text = configuration(&lab, &[web.clone(), shop()]);
    node.reconfigure(&text.replace("\"c1\", ", "\"c1\", \"big\", "))?;
    Refused::start(&lab, &node).must_end(8, &["attaching to big"])?;
    requests(&lab, &web, Family::V4, Color::Blue).context("the service that was there")?;
    let target = shop().target(&lab, Family::V4);
    let load = Client::new(lab.client2()).http_new(target, HttpNew::per_second(100));
    load.wait_until(LIMIT, |stats| stats.answered + stats.failed >= 10)?;
    let answered = load.finish().answered;
    ensure!(answered == 0, "the refused configuration is half applied");
    Ok(())
}

#[test]
fn a_service_in_the_place_of_a_removed_one_starts_with_its_own_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let (web, stream) = (LabService::web(0), LabService::stream(1));
    let mut node = Node::start(&lab, &[web, stream.clone()])?;
    node.flip(&["web"], Color::Green)?;
    for services in [vec![stream.clone()], vec![stream.clone(), shop()]] {
        node.stop_agent()?;
        node.reconfigure(&configuration(&lab, &services))?;
        node.start_agent()?;
    }
    let service = node.service("shop")?;
    ensure!(
        service["active"] == "blue" && service["generation"] == 0,
        "{service}"
    );
    for family in Family::ALL {
        requests(&lab, &shop(), family, Color::Blue)?;
    }
    Ok(())
}
