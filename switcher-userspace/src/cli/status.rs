//! `switcher status`

use clap::Args;
use switcher_common::service::{Color, Protocol};

use super::{Console, answer::Answer, failover, progress, status_watch, table::Table};
use crate::{
    api::{
        client::Client,
        types::{
            ApiError, BackendStatus, ErrorCode, ListenerStatus, RemovedListenerStatus,
            ServiceStatus, StatusReply, TableStatus,
        },
    },
    failover::Health,
};

/// Arguments of `switcher status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Services to show [default: all]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Show it again whenever it has changed, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Share of a flow table, in percent, from which on it counts as nearly full.
const NEARLY_FULL_PERCENT: u64 = 80;

pub(super) async fn run(
    args: &StatusArgs,
    json: bool,
    client: &Client,
    console: &mut Console<'_>,
) -> Answer {
    let services = (!args.services.is_empty()).then_some(args.services.as_slice());
    if args.watch {
        return match status_watch::follow(services, json, client, console).await {
            Ok(()) => Answer::silent(),
            Err(error) => error.into(),
        };
    }
    let status = client.status().await;
    match status.and_then(|status| only(services, status)) {
        Ok(status) => Answer::new(&status, describe(&status)),
        Err(error) => error.into(),
    }
}

/// The status of the named services.
fn only(services: Option<&[String]>, mut status: StatusReply) -> Result<StatusReply, ApiError> {
    let Some(services) = services else {
        return Ok(status);
    };
    for name in services {
        let is_known = status.services.iter().any(|service| service.name == *name);
        let is_removed = (status.removed.iter()).any(|listener| listener.service == *name);
        if !is_known && !is_removed {
            return Err(ApiError::new(
                ErrorCode::NotFound,
                format!("there is no service {name}"),
                "`switcher status` lists the services",
            ));
        }
    }
    (status.services).retain(|service| services.contains(&service.name));
    (status.removed).retain(|listener| services.contains(&listener.service));
    Ok(status)
}

pub(super) fn describe(status: &StatusReply) -> String {
    let parts = [
        headline(status),
        alarms(&status.services),
        services(&status.services),
        listeners(&status.services),
        removed(&status.removed),
        traffic(&status.services),
        interfaces(status),
        tables(&status.tables),
        verdicts(status),
        send_errors(status),
        warnings(status),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn headline(status: &StatusReply) -> String {
    let agent = &status.agent;
    let adopted = if agent.adopted {
        ", took over a running data path"
    } else {
        ""
    };
    format!(
        "agent {}, pid {}, since {}{adopted}\ngeneration {}\n",
        agent.version, agent.pid, agent.started_at, status.generation
    )
}

/// What somebody has to look after, before everything else.
fn alarms(services: &[ServiceStatus]) -> String {
    let alarms = services.iter().filter_map(failover::alarm);
    alarms.map(|alarm| alarm + "\n").collect()
}

fn services(services: &[ServiceStatus]) -> String {
    let mut table = Table::new([
        "SERVICE",
        "ACTIVE",
        "STANDBY",
        "BASE",
        "FAILOVER",
        "GENERATION",
        "BLUE FLOWS",
        "GREEN FLOWS",
        "PREVIEW FLOWS",
        "DRAIN",
    ]);
    for service in services {
        let drain = service.drain.as_ref();
        table.row([
            service.name.clone(),
            service.active.name().to_owned(),
            service.standby.name().to_owned(),
            service.base.name().to_owned(),
            (service.failover.as_ref())
                .map_or("none", failover::switch)
                .to_owned(),
            service.generation.to_string(),
            service.in_flight.blue.to_string(),
            service.in_flight.green.to_string(),
            service.preview_flows.to_string(),
            drain.map_or_else(|| "none".to_owned(), progress::describe),
        ]);
    }
    table.render()
}

fn listeners(services: &[ServiceStatus]) -> String {
    let mut table = Table::new([
        "SERVICE", "LISTENER", "VIP", "PROTOCOL", "COLOR", "BACKEND", "WEIGHT", "STATE",
    ]);
    for service in services {
        for listener in &service.listeners {
            for color in Color::ALL {
                for backend in listener.backends.get(color) {
                    table.row(backend_row(service, listener, color, backend));
                }
            }
        }
    }
    table.render()
}

fn backend_row(
    service: &ServiceStatus,
    listener: &ListenerStatus,
    color: Color,
    backend: &BackendStatus,
) -> [String; 8] {
    let protocol = match listener.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let preview = if listener.preview { " (preview)" } else { "" };
    [
        service.name.clone(),
        format!("{}{preview}", listener.name),
        endpoint(listener.vip, listener.port),
        protocol.to_owned(),
        color.name().to_owned(),
        endpoint(backend.address, backend.port),
        backend.weight.to_string(),
        state(backend),
    ]
}

/// Listeners that are configured no more.
fn removed(removed: &[RemovedListenerStatus]) -> String {
    let mut table = Table::new(["REMOVED FROM", "VIP", "PROTOCOL", "FLOWS", "UNTIL", "THEN"]);
    for it in removed {
        table.row([
            it.service.clone(),
            endpoint(it.vip, it.port),
            it.protocol.name().to_owned(),
            it.in_flight
                .map_or_else(|| "unknown".to_owned(), |flows| flows.to_string()),
            it.until_at.clone(),
            it.at_deadline.name().to_owned(),
        ]);
    }
    table.render()
}

/// A backend's health, and whether it was taken out by hand.
pub(super) fn state(backend: &BackendStatus) -> String {
    let health = match backend.health {
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    };
    let drained = if backend.drained { ", drained" } else { "" };
    format!("{health}{drained}")
}

fn endpoint(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn traffic(services: &[ServiceStatus]) -> String {
    let mut table = Table::new([
        "SERVICE",
        "COLOR",
        "NEW FLOWS",
        "PACKETS",
        "BYTES",
        "UNPINNED PACKETS",
    ]);
    for service in services {
        for color in Color::ALL {
            let traffic = service.traffic.get(color);
            table.row([
                service.name.clone(),
                color.name().to_owned(),
                traffic.new_flows.to_string(),
                traffic.packets.to_string(),
                traffic.bytes.to_string(),
                traffic.unpinned_packets.to_string(),
            ]);
        }
    }
    table.render()
}

fn interfaces(status: &StatusReply) -> String {
    let mut table = Table::new(["INTERFACE", "MODE", "TAKES REDIRECTS"]);
    for interface in &status.interfaces {
        let takes_redirects = match interface.takes_redirects {
            Some(true) => "yes",
            Some(false) => "no, its frames go through the stack",
            None => "unknown",
        };
        table.row([
            interface.name.clone(),
            interface.mode.clone(),
            takes_redirects.to_owned(),
        ]);
    }
    table.render()
}

fn tables(tables: &TableStatus) -> String {
    let mut table = Table::new(["FLOW TABLES", "ENTRIES", "CAPACITY", "EVICTED"]);
    let (entries, capacity) = (tables.established_entries, tables.established_capacity);
    table.row([
        "established".to_owned(),
        entries.to_string(),
        capacity.to_string(),
        "never".to_owned(),
    ]);
    let (entries, capacity) = (tables.unanswered_entries, tables.unanswered_capacity);
    table.row([
        "unanswered".to_owned(),
        entries.to_string(),
        capacity.to_string(),
        tables.evicted_entries.to_string(),
    ]);
    table.render()
}

fn send_errors(status: &StatusReply) -> String {
    let mut table = Table::new(["LOST AFTER A VERDICT, ON THE WHOLE NODE", "FRAMES"]);
    for (what, frames) in lost(status) {
        table.row([what.to_owned(), frames.to_string()]);
    }
    table.render()
}

/// What was counted of frames that no program sees lost.
fn lost(status: &StatusReply) -> impl Iterator<Item = (&'static str, u64)> {
    let counted = status.send_errors.map(|errors| {
        [
            ("redirect refused by the kernel", errors.redirect_refused),
            ("redirect dropped by the driver", errors.redirect_dropped),
            ("transmit dropped by the driver", errors.transmit_dropped),
        ]
    });
    counted
        .into_iter()
        .flatten()
        .filter(|(_, frames)| *frames > 0)
}

fn verdicts(status: &StatusReply) -> String {
    let mut table = Table::new(["VERDICT", "REASON", "PACKETS"]);
    for count in &status.verdicts {
        table.row([
            count.verdict.clone(),
            count.reason.clone(),
            count.packets.to_string(),
        ]);
    }
    table.render()
}

fn warnings(status: &StatusReply) -> String {
    let mut warnings = Vec::new();
    if status.services.is_empty() {
        warnings.push("no service is configured".to_owned());
    }
    if status.interfaces.is_empty() {
        warnings.push("the program is attached to no interface".to_owned());
    }
    let generic = status
        .interfaces
        .iter()
        .filter(|interface| interface.mode == "generic");
    warnings.extend(
        generic.map(|interface| format!("{} runs in generic mode, which is slow", interface.name)),
    );
    let dropped = status
        .verdicts
        .iter()
        .filter(|count| count.verdict == "drop");
    warnings.extend(status.services.iter().flat_map(held));
    warnings.extend(
        dropped.map(|count| format!("{} packets dropped: {}", count.packets, count.reason)),
    );
    let tables = &status.tables;
    warnings.extend(nearly_full(
        "established",
        tables.established_entries,
        tables.established_capacity,
    ));
    warnings.extend(nearly_full(
        "unanswered",
        tables.unanswered_entries,
        tables.unanswered_capacity,
    ));
    let lines = warnings.iter();
    let lines: Vec<String> = lines.map(|line| format!("warning: {line}\n")).collect();
    lines.concat()
}

/// What will end by itself, or was left so by hand.
fn held(service: &ServiceStatus) -> Vec<String> {
    let name = &service.name;
    let mut held = Vec::new();
    if let Some(until) = &service.confirm_until_at {
        held.push(format!(
            "{name}: the flip is taken back at {until} unless `switcher confirm {name}` comes before"
        ));
    }
    if service.split_percent > 0 {
        held.push(format!(
            "{name}: {} % of the clients go to {}, the standby",
            service.split_percent,
            service.standby.name()
        ));
    }
    let drill = service.failover.as_ref().and_then(|it| it.drill.as_ref());
    held.extend(drill.map(|drill| {
        format!(
            "{name}: a drill goes on; {} becomes active again at {} at the latest",
            drill.back_to.name(),
            drill.until_at
        )
    }));
    for pause in &service.pauses {
        let what = pause.listener.as_deref().unwrap_or("all listeners");
        let how = if pause.hard { ", every packet" } else { "" };
        held.push(format!(
            "{name}: {what} paused until {}{how}",
            pause.until_at
        ));
    }
    held
}

fn nearly_full(table: &str, entries: u64, capacity: u64) -> Option<String> {
    let percent = entries.saturating_mul(100).checked_div(capacity)?;
    (percent >= NEARLY_FULL_PERCENT).then(|| {
        format!("the table of {table} flows is {percent} % full: {entries} of {capacity} entries")
    })
}
