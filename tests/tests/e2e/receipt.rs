//! The receipt of a drain (G10): when the new color began, when the old one's last packet came, and
//! what became of its flows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::{Client, Conversation, HttpNew},
};
use switcher_userspace::api::instant;

use crate::{
    mixed::LIMIT,
    pins::{Pins, Tuple},
};

const PORT: u16 = 20_000;

fn drain(node: &Node<'_>, arguments: &[&str]) -> Result<(Value, i32)> {
    let (reply, code) = node.json(&[&["drain"], arguments].concat())?;
    Ok((reply["drain"].clone(), code))
}

fn at(drain: &Value, field: &str) -> Result<SystemTime> {
    let text = drain[field].as_str();
    let found = text.and_then(instant::parse);
    found.with_context(|| format!("no {field} in {drain}"))
}

/// An error unless the instants of `fields` follow each other so.
fn in_order(drain: &Value, fields: &[&str]) -> Result<()> {
    let all = fields.iter().map(|field| at(drain, field));
    let all = all.collect::<Result<Vec<_>>>()?;
    ensure!(all.is_sorted(), "not in the order {fields:?}: {drain}");
    Ok(())
}

fn finished(node: &Node<'_>, flows: u64) -> Result<()> {
    let what = format!("{flows} finished flows");
    node.wait_until(&what, |status| {
        service_in(status, "stream")["drain"]["flows_finished"] == flows
    })?;
    Ok(())
}

/// Connections of both families to `stream`, which blue serves, and how their packets are found.
fn open(lab: &Lab, ports: std::ops::Range<u16>) -> Result<Vec<(Conversation, Tuple)>> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let vip = LabService::stream(1).target(lab, family);
        let address: IpAddr = lab.topology().links[0].far_addresses(family)[0];
        for port in ports.clone() {
            let mut conversation = Conversation::open(lab.client(), port, vip, LIMIT)?;
            ensure!(conversation.ask()?.color == Color::Blue);
            let tuple = Tuple::tcp(SocketAddr::new(address, port), vip);
            all.push((conversation, tuple));
        }
    }
    Ok(all)
}

/// Takes the pin away when the client has nothing more to say.
fn lose_pin(node: &Node<'_>, pins: &mut Pins, tuple: Tuple) -> Result<()> {
    let forward = pins.of(tuple)?.context("no pin")?;
    let replies = Tuple::tcp(forward.rewritten, tuple.from);
    node.wait_until("a client that has said all", |_| {
        let both = (pins.of(tuple), pins.of(replies));
        matches!(both, (Ok(Some(own)), Ok(Some(other))) if own.acked == other.next_seq)
    })?;
    pins.lose(tuple)
}

#[test]
fn g10_the_receipt_of_a_flip_under_load_tells_what_became_of_the_flows_and_when() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let mut pins = Pins::open(&lab)?;
    let mut connections = open(&lab, PORT..PORT + 4)?;
    let web = LabService::web(0).target(&lab, Family::V4);
    // Holds the drain of `web` until green has served.
    let holder = lab.client().run(|| TcpStream::connect(web))?;
    let load = Client::new(lab.client()).http_new(web, HttpNew::per_second(200));
    load.wait_until(LIMIT, |stats| stats.per_color.blue > 100)?;
    let flip = [
        "flip",
        "web",
        "stream",
        "--to",
        "green",
        "--drain-timeout",
        "60s",
    ];
    let (reply, code) = node.json(&flip)?;
    ensure!(code == 0 && reply["changed"] == true, "{reply}");

    load.wait_until(LIMIT, |stats| stats.per_color.green > 100)?;
    drop(holder);
    let (of_web, code) = drain(&node, &["web", "--wait"])?;
    ensure!(load.finish().is_clean(), "under load");
    ensure!(code == 0 && of_web["ended"] == "drained", "{of_web}");
    in_order(&of_web, &["started_at", "first_new_flow_at", "ended_at"])?;
    in_order(&of_web, &["started_at", "last_old_packet_at", "ended_at"])?;
    ensure!(of_web["flows_finished"].as_u64() >= Some(1), "{of_web}");

    // One connection loses its pin, and goes on by the base color.
    lose_pin(&node, &mut pins, connections[0].1)?;
    for (connection, _) in &mut connections {
        ensure!(connection.ask()?.color == Color::Blue, "pinned");
    }
    let mut closed = connections.split_off(3);
    closed.pop().context("a connection")?.0.abort()?;
    for (connection, _) in closed.drain(1..) {
        connection.close()?;
    }
    // Of eight, one was reset and three were closed.
    finished(&node, 4)?;
    ensure!(
        drain(&node, &["stream"])?.0["first_new_flow_at"].is_null(),
        "nothing began on green yet"
    );
    node.kill_agent()?;
    for (connection, _) in closed {
        connection.close()?;
    }
    let target = LabService::stream(1).target(&lab, Family::V6);
    let opened = SystemTime::now();
    let mut new = Conversation::open(lab.client(), PORT + 10, target, LIMIT)?;
    ensure!(new.ask()?.color == Color::Green, "a fresh one");
    let answered = SystemTime::now();
    node.start_agent()?;
    finished(&node, 5)?;
    let finish = ["stream", "--finish-now", "keep", "--wait"];
    let (reply, code) = node.json(&[&["drain"], &finish[..]].concat())?;
    ensure!(code == 5, "three are left: {reply}");
    let (receipt, _) = drain(&node, &["stream"])?;
    ensure!(
        receipt["flows_finished"] == 5
            && receipt["flows_reset"] == 0
            && receipt["flows_moved"] == 0
            && receipt["flows_left"] == 3
            && receipt["unpinned_packets"] == 1,
        "eight were in flight, of which one was pinned anew: {receipt}"
    );
    in_order(&receipt, &["started_at", "first_new_flow_at", "ended_at"])?;
    in_order(&receipt, &["started_at", "last_old_packet_at", "ended_at"])?;
    let first = at(&receipt, "first_new_flow_at")?;
    // The wire has whole milliseconds.
    let ms = Duration::from_millis(1);
    ensure!(
        opened - ms <= first && first <= answered,
        "begun between {opened:?} and {answered:?}: {receipt}"
    );

    // What the old color still does is not the drain's any more.
    for (mut connection, _) in connections {
        connection.ask()?;
        connection.close()?;
    }
    node.wait_until("nothing in flight on blue", |status| {
        service_in(status, "stream")["in_flight"]["blue"] == 0
    })?;
    ensure!(drain(&node, &["stream"])?.0 == receipt, "as it was");
    let (history, _) = node.json(&["history", "stream"])?;
    let entries = history["entries"].as_array().context("no history")?;
    let ended = entries.iter().find(|it| it["what"] == "drain_ended");
    ensure!(
        ended.context("no end of the drain")?["drain"] == receipt,
        "{history}"
    );
    let text = String::from_utf8(node.cli(&["drain", "stream"])?.stdout)?;
    for line in [
        "flows of blue: 5 finished, 0 reset, 0 moved, 3 left",
        "first new flow on green: ",
        "last packet of blue: ",
        "packets to blue without a pin: 1",
    ] {
        ensure!(text.contains(line), "no `{line}` in: {text}");
    }
    Ok(())
}

/// Flows of both families that blue has answered.
fn datagrams(lab: &Lab) -> Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    for family in Family::ALL {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let target = LabService::datagram(2).target(lab, family);
        for _ in 0..3 {
            let socket = (lab.client()).run(|| UdpSocket::bind(SocketAddr::new(any, 0)))?;
            socket.set_read_timeout(Some(LIMIT))?;
            socket.send_to(&7_u64.to_be_bytes(), target)?;
            socket.recv_from(&mut [0; 256]).context("no answer")?;
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

#[test]
fn g10_silent_datagram_flows_finish_and_a_flip_without_new_ones_says_so() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let sockets = datagrams(&lab)?;
    let (reply, code) = node.json(&["flip", "datagram", "--to", "green", "--wait"])?;
    ensure!(code == 0, "{reply}");
    let receipt = &reply["drains"]["datagram"];
    ensure!(
        receipt["ended"] == "drained"
            && receipt["flows_finished"] == sockets.len()
            && receipt["flows_left"] == 0
            && receipt["unpinned_packets"] == 0,
        "{receipt}"
    );
    ensure!(receipt["first_new_flow_at"].is_null(), "{receipt}");
    let last = at(receipt, "last_old_packet_at")?;
    ensure!(last <= at(receipt, "started_at")?, "all before: {receipt}");
    // Back, before anything began on green: the rollback has a receipt of its own.
    node.flip(&["datagram"], Color::Blue)?;
    let (receipt, _) = drain(&node, &["datagram", "--wait"])?;
    ensure!(
        receipt["color"] == "green" && receipt["flows_finished"] == 0,
        "{receipt}"
    );
    ensure!(
        receipt["first_new_flow_at"].is_null() && receipt["last_old_packet_at"].is_null(),
        "{receipt}"
    );
    Ok(())
}
