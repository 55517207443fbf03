//! `switcher preview` tells of the standby what connections to it find.

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use switcher_common::service::{Color, Protocol};
use switcher_tests::{
    lab::Lab,
    node::{LabService, Node, configuration},
    skip_unless_lab,
    traffic::ECHO_PORT,
};

use crate::probe::{Kind, Probe};

/// Where the preview listeners are: beside the services' own port.
const PREVIEW_PORT: u16 = 1_007;

/// `stream` and `datagram` with a preview listener for each family, and `web` without any.
fn with_previews(lab: &Lab) -> String {
    let own = |kind: Kind| kind.target(lab).ip();
    let preview = |kind: Kind| {
        let mut text = format!(
            "[[service.listener]]\nname = \"preview-{:?}\"\nvip = \"{}\"\nport = {PREVIEW_PORT}\n\
             protocol = \"{}\"\npreview = true\n",
            kind.family,
            own(kind),
            kind.protocol.name()
        )
        .to_lowercase();
        for color in Color::ALL {
            let backends = lab.backends(color, kind.family).into_iter();
            let backends =
                backends.map(|it| format!("{{ address = \"{it}\", port = {ECHO_PORT} }}"));
            let backends: Vec<String> = backends.collect();
            // Writing to a String does not fail.
            let _ = writeln!(text, "{} = [{}]", color.name(), backends.join(", "));
        }
        text
    };
    // A listener belongs to the service above it.
    let mut text = configuration(lab, &[LabService::web(0), LabService::stream(1)]);
    let of = |protocol| Kind::all().filter(move |kind| kind.protocol == protocol);
    text.extend(of(Protocol::Tcp).map(preview));
    let datagram = configuration(lab, &[LabService::datagram(2)]);
    text.push_str(
        datagram
            .find("[[service]]")
            .map_or("", |at| &datagram[at..]),
    );
    text.extend(of(Protocol::Udp).map(preview));
    text
}

fn preview(node: &Node<'_>, service: &str) -> Result<Value> {
    let (preview, code) = node.json(&["preview", service])?;
    ensure!(code == 0, "{code}: {preview}");
    Ok(preview)
}

fn list<'a>(of: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    let list = of[field].as_array();
    list.with_context(|| format!("no list {field} in {of}"))
}

fn endpoint(of: &Value, address: &str) -> Result<SocketAddr> {
    let ip = of[address].as_str().context("no address")?.parse()?;
    let port = of["port"].as_u64().context("no port")?;
    Ok(SocketAddr::new(ip, u16::try_from(port)?))
}

/// The preview listener of `kind`: its address, its backends.
fn listener(preview: &Value, kind: Kind) -> Result<(SocketAddr, BTreeSet<SocketAddr>)> {
    for listener in list(preview, "previews")? {
        let vip = endpoint(listener, "vip")?;
        if vip.is_ipv4() == matches!(kind.family, switcher_tests::lab::Family::V4) {
            ensure!(listener["protocol"] == kind.protocol.name(), "{listener}");
            let backends = list(listener, "backends")?.iter();
            let backends = backends.map(|it| endpoint(it, "address"));
            return Ok((vip, backends.collect::<Result<_>>()?));
        }
    }
    bail!("no preview listener of {kind:?} in {preview}")
}

/// Connects to the address that `preview` tells, and is served by a backend that it tells.
fn try_it<'lab>(lab: &'lab Lab, preview: &Value, kind: Kind, port: u16) -> Result<Probe<'lab>> {
    let (vip, backends) = listener(preview, kind)?;
    let mut probe = Probe::to(lab, kind, kind.client(lab, port), vip)?;
    let by = probe.backend()?;
    ensure!(backends.contains(&by), "{by} of {backends:?} served {vip}");
    Ok(probe)
}

#[test]
fn a_preview_tells_where_the_standby_is_reached_and_follows_the_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = Node::configured(&lab, &with_previews(&lab))?;
    node.start_agent()?;
    let mut probes = Vec::new();
    for (standby, port) in [(Color::Green, 2_000), (Color::Blue, 2_001)] {
        if standby == Color::Blue {
            node.flip(&["stream", "datagram"], Color::Green)?;
        }
        for kind in Kind::all() {
            let told = preview(&node, kind.service())?;
            ensure!(
                told["standby"] == standby.name()
                    && told["active"] == standby.other().name()
                    && told["generation"] == node.service(kind.service())?["generation"]
                    && told["passes_gate"] == true
                    && told["obstacle"].is_null(),
                "{told}"
            );
            let (vip, backends) = listener(&told, kind)?;
            let expected = lab.backends(standby, kind.family).into_iter();
            let expected: BTreeSet<SocketAddr> =
                expected.map(|it| SocketAddr::new(it, ECHO_PORT)).collect();
            ensure!(
                vip.port() == PREVIEW_PORT && backends == expected,
                "{vip}, {backends:?}"
            );
            probes.push(try_it(&lab, &told, kind, port)?);
        }
    }
    // Both families of each service, before and after the flip; none is in flight.
    for service in ["stream", "datagram"] {
        node.wait_until("four preview flows", |_| {
            preview(&node, service).is_ok_and(|told| told["preview_flows"] == 4)
        })?;
        let in_flight = &node.service(service)?["in_flight"];
        ensure!(
            *in_flight == json!({ "blue": 0, "green": 0 }),
            "{in_flight}"
        );
    }
    drop(probes);
    Ok(())
}

#[test]
fn a_preview_tells_what_a_flip_would_be_refused_for() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = Node::configured(&lab, &with_previews(&lab))?;
    node.start_agent()?;
    let kind = Kind::all().next().context("no kind")?;
    let flip = ["flip", "stream", "--to", "green", "--dry-run"];
    let backends = lab.backends(Color::Green, kind.family);
    for (drained, backend) in backends.iter().enumerate() {
        let told = preview(&node, "stream")?;
        ensure!(told["passes_gate"] == true, "{drained} drained: {told}");
        ensure!(node.json(&flip)?.1 == 0, "{drained} drained");
        let endpoint = SocketAddr::new(*backend, ECHO_PORT).to_string();
        let (answer, code) = node.json(&["backend", "drain", "stream", "green", &endpoint])?;
        ensure!(code == 0, "{answer}");
    }
    let told = preview(&node, "stream")?;
    ensure!(
        told["passes_gate"] == false
            && told["obstacle"] == json!({ "listener": "tcp-v4", "eligible": 0, "min_healthy": 1 }),
        "{told}"
    );
    let (answer, code) = node.json(&flip)?;
    ensure!(code == 3, "the gate says otherwise: {answer}");
    for (field, listener) in [("previews", "preview-v4"), ("listeners", "tcp-v4")] {
        for told in list(&told, field)? {
            let is_drained = told["name"] == listener;
            for backend in list(told, "backends")? {
                ensure!(
                    backend["drained"] == is_drained && backend["eligible"] == !is_drained,
                    "{told}"
                );
            }
        }
    }
    let first = SocketAddr::new(backends[0], ECHO_PORT).to_string();
    let (answer, code) = node.json(&["backend", "resume", "stream", "green", &first])?;
    ensure!(code == 0, "{answer}");
    let told = preview(&node, "stream")?;
    ensure!(told["passes_gate"] == true, "{told}");
    drop(try_it(&lab, &told, kind, 2_000)?);
    Ok(())
}

#[test]
fn without_a_preview_listener_there_is_nothing_to_preview() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = Node::configured(&lab, &with_previews(&lab))?;
    node.start_agent()?;
    for (service, expected, hint) in [("web", 3, "preview = true"), ("nope", 7, "switcher status")]
    {
        let (answer, code) = node.json(&["preview", service])?;
        let next_step = answer["error"]["next_step"].as_str().unwrap_or_default();
        ensure!(
            code == expected && next_step.contains(hint),
            "{code}: {answer}"
        );
    }
    Ok(())
}
