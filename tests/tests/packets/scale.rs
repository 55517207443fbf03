//! Large configurations: ten thousand listeners, and listeners with five hundred backends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use switcher_common::reason::Reason;
use switcher_common::service::Color::Blue;
use switcher_tests::bpf::between_bpf_calls;
use switcher_tests::lab::{Family, Lab};
use switcher_tests::node::Many;
use switcher_tests::skip_unless_lab;
use switcher_userspace::config::{Config, Limits};
use switcher_userspace::datapath::{Leaving, Wanted};

use crate::packet::{Packet, SYN};
use crate::rig::{Rig, states};
use crate::setup::Setup;

/// Room for [`Many`], twice: an apply that changes all needs room for the old and the new.
const LIMITS: Limits = Limits {
    interfaces: 64,
    flows: 4_096,
    unanswered: 4_096,
    fragments: 1_024,
    services: 128,
    listeners: 20_480,
    backends: 81_920,
    maglev_slots: 8_650_752,
    inserts_per_second: 125_000,
};

/// Far more than an apply makes whose calls do not grow with the configuration.
const MOST_CALLS: usize = 400;

fn config(rig: &Rig, many: Many) -> Result<Config> {
    let text = format!(
        "[agent]\ninterfaces = []\npin_dir = \"{}\"\n{}",
        rig.config.agent.pin_dir.display(),
        many.services(rig.lab)
    );
    let mut config = toml(&text)?;
    config.agent = rig.config.agent.clone();
    for service in &mut config.services {
        // SYNs are sent again here, and are to go where they went.
        service.second_chance = false;
    }
    Ok(config)
}

fn toml(text: &str) -> Result<Config> {
    let text = text.replace("interfaces = []", "interfaces = [\"c1\"]");
    // Its limits are replaced afterwards; the defaults take both shapes.
    Config::parse(Path::new("made by the test"), &text).context("a valid configuration")
}

/// Applies `config` to the running program. Returns its bpf(2) calls, and says how long it took.
fn apply(rig: &mut Rig, config: &Config, what: &str) -> Result<usize> {
    let drained = BTreeSet::new();
    let (path, scanner) = (&mut rig.path, &mut rig.scanner);
    let began = Instant::now();
    let apply = || {
        let wanted = Wanted {
            config,
            drained: &drained,
            leaving: Leaving::AT_ONCE,
        };
        path.apply(&wanted, scanner, |path, ids| {
            let blue = states(&vec![(Blue, Blue); ids.len()]);
            path.switch(&blue).map(drop)
        })?;
        Ok(())
    };
    let ((), calls) = between_bpf_calls(apply, |_| Ok(()))?;
    writeln!(
        std::io::stdout().lock(),
        "scale: {what} took {:?} and {calls} bpf(2) calls",
        began.elapsed()
    )?;
    ensure!(
        calls <= MOST_CALLS,
        "{what}: {calls} bpf(2) calls, at most {MOST_CALLS} wanted"
    );
    Ok(calls)
}

/// Some listeners of `many` lead to their own backends, all of them to some of each.
fn leads(rig: &mut Rig, many: Many, port: u16) -> Result<()> {
    let services = [0, many.services / 2, many.services - 1];
    let listeners = [0, 1, many.listeners / 2, many.listeners - 1];
    for service in services {
        for listener in listeners {
            let vip = SocketAddr::new(many.vip(service, listener), Many::PORT);
            let first = many.backend_port(service, listener);
            let backend = rig.lab.backends(Blue, Family::of(vip.ip()))[0];
            let mut chosen = BTreeMap::<u16, u32>::new();
            for port in port..port + 20 {
                let client = rig.client(Family::of(vip.ip()), port);
                let packet = Packet::tcp(client, vip, SYN, 1, 0);
                rig.run(&packet.bytes()?)?;
                let flow = rig.flow(&packet)?;
                ensure!(flow.backend.ip() == backend, "{vip}: {flow:?}");
                *chosen.entry(flow.backend.port()).or_default() += 1;
            }
            let all = first..first + many.backends;
            ensure!(
                chosen.keys().all(|port| all.contains(port)) && chosen.len() > 1,
                "{vip}: to the ports {chosen:?} of {all:?}"
            );
        }
    }
    Ok(())
}

fn grows_and_changes(shape: Many) -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut setup = Setup::new(Vec::new());
    setup.limits = LIMITS;
    Rig::with(&lab, &setup, |rig| {
        let changed = Many {
            variant: 1,
            ..shape
        };
        let (first, second) = (config(rig, shape)?, config(rig, changed)?);
        apply(rig, &first, "at first")?;
        leads(rig, shape, 2_000)?;
        apply(rig, &second, "all backends changed")?;
        leads(rig, changed, 2_100)?;
        // Those of before are removed, and their flows go on.
        leads(rig, shape, 2_000)?;
        apply(rig, &second, "nothing changed")?;
        let moved = Many { net: 1, ..changed };
        let third = config(rig, moved)?;
        apply(rig, &third, "all VIPs and backends changed")?;
        leads(rig, moved, 2_200)?;
        let services = Vec::new();
        apply(rig, &Config { services, ..third }, "all removed")?;
        for shape in [shape, moved] {
            let vip = SocketAddr::new(shape.vip(0, 0), Many::PORT);
            let packet = Packet::tcp(rig.client(Family::V4, 2_300), vip, SYN, 1, 0);
            let (_, counted) = rig.run_counted(&packet.bytes()?)?;
            ensure!(counted == [(Reason::NotOurs, 1)], "{vip}: {counted:?}");
        }
        Ok(())
    })
}

#[test]
fn ten_thousand_listeners_are_applied_and_changed_by_few_calls() -> Result<()> {
    skip_unless_lab!(Ok(()));
    grows_and_changes(Many::LISTENERS)
}

#[test]
fn listeners_with_five_hundred_backends_are_applied_and_changed_by_few_calls() -> Result<()> {
    skip_unless_lab!(Ok(()));
    grows_and_changes(Many::BACKENDS)
}
