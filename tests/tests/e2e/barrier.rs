//! G3 without luck: a run of a program is held open that has read the old state, and the flip's answer
//! waits for its end.

use std::{fs, os::fd::AsFd as _, path::Path, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use switcher_common::service::Color;
use switcher_tests::{
    bpf::Held,
    lab::Lab,
    node::{LabService, Node},
    skip_unless_lab,
};
use switcher_userspace::api::{client::Client, requests::FlipRequest, types::ChangeReply};
use tokio::runtime::{Builder, Runtime};

/// How often it is tried on a busy machine.
const ATTEMPTS: usize = 10;
/// Ids of services begin here.
const FIRST_SERVICE: i32 = 1;
const BPF_MAP_UPDATE_ELEM: u64 = 2;

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, ns) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + ns
}

/// Asks for a flip; the answer, and when it was there.
fn flip(socket: &Path, to: Color) -> Result<(ChangeReply, u64)> {
    let request = FlipRequest {
        services: vec!["stream".to_owned()],
        to: Some(to),
        ..FlipRequest::default()
    };
    let answer = runtime()?.block_on(Client::new(socket).change(&request));
    let answered_ns = monotonic_ns();
    match answer {
        Ok(reply) => Ok((reply, answered_ns)),
        Err(failure) => bail!("the flip failed: {failure:?}"),
    }
}

fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("making a runtime")
}

/// Asks for what the agent answers by itself.
fn version(socket: &Path) -> Result<()> {
    runtime()?.block_on(Client::new(socket).version())?;
    Ok(())
}

/// A pinned map of the node.
pub(crate) fn pinned(lab: &Lab, name: &str) -> Result<MapData> {
    let path = lab.bpffs().join("switcher/maps").join(name);
    (lab.node().run(|| MapData::from_pin(&path))).with_context(|| format!("opening {name}"))
}

/// Whether the agent's core waits inside bpf(2) for a store to return. The call of a thread that does not
/// wait is not told.
fn core_is_in_a_store(agent: u32) -> Result<bool> {
    for entry in fs::read_dir(format!("/proc/{agent}/task"))? {
        let thread = entry?.path();
        // A thread may end meanwhile.
        let text = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        if text("comm").trim_end() != "core" {
            continue;
        }
        let call = text("syscall");
        let mut words = call.split_whitespace();
        let number = words.next().and_then(|it| it.parse().ok());
        let command = words.next().and_then(|it| it.strip_prefix("0x"));
        let command = command.and_then(|it| u64::from_str_radix(it, 16).ok());
        return Ok(number == Some(libc::SYS_bpf) && command == Some(BPF_MAP_UPDATE_ELEM));
    }
    bail!("the agent has no thread called core")
}

#[test]
fn g3_a_flip_is_not_answered_while_a_program_runs_that_has_read_the_old_state() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = Node::start(&lab, &[LabService::stream(1)])?;
    // A CPU that is held serves nobody else, so whoever is needed meanwhile keeps off it.
    let (of_program, of_others) = two_sets_of_cpus()?;
    sched_setaffinity(None, &of_others)?;
    keep_on(node.agent_id()?, &of_others)?;
    for _ in 0..ATTEMPTS {
        if is_held_up(&lab, &node, &of_program)? {
            return Ok(());
        }
    }
    bail!("the agent was never seen to wait for the program in {ATTEMPTS} attempts");
}

/// Flips there and back while a program is held. `false`: the program ended by itself before anything
/// was seen, as on a machine that is too busy. An answer before the program's end is an error in any
/// case.
fn is_held_up(lab: &Lab, node: &Node<'_>, of_program: &CpuSet) -> Result<bool> {
    let (agent, socket) = (node.agent_id()?, node.socket());
    let outer = pinned(lab, "SWITCH")?;
    let (held, handle) = Held::load(outer.fd().as_fd(), FIRST_SERVICE)?;
    // What the slot holds, as a number: the id of an inner map.
    let slot: Array<MapData, u32> = Map::Array(pinned(lab, "SWITCH")?).try_into()?;
    let old = slot.get(&0, 0)?;
    // An attempt before may have left either, if its second flip came first.
    let active = if node.service("stream")?["active"] == Color::Blue.name() {
        Color::Blue
    } else {
        Color::Green
    };
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            sched_setaffinity(None, of_program)?;
            held.run()
        });
        until(
            &held,
            || Ok(run.is_finished() || held.told()?.has_read == 1),
        )?;
        let first = scope.spawn(|| flip(&socket, active.other()));
        until(&held, || {
            Ok(first.is_finished() || core_is_in_a_store(agent)?)
        })?;
        // The other way round: it would write into the map that the program stands on.
        let second = scope.spawn(|| flip(&socket, active));
        version(&socket).context("the agent serves meanwhile")?;
        let waits = core_is_in_a_store(agent)? && slot.get(&0, 0)? != old;
        let is_answered = first.is_finished();
        // After all that, the program still ran.
        let is_held = held.told()?.ended_ns == 0;
        handle.let_go()?;
        run.join().expect("no panic")?;
        let (reply, answered_ns) = first.join().expect("no panic")?;
        second.join().expect("no panic")?;
        let told = held.told()?;
        ensure!(
            reply.changed && answered_ns > told.ended_ns && !(is_answered && is_held),
            "answered at {answered_ns}, and a program ran with the state before: {told:?}"
        );
        ensure!(
            told.generation == told.generation_at_end,
            "the state that a program stands on has changed: {told:?}"
        );
        Ok(is_held && waits)
    })
}

/// Waits until `done` holds, which sends no event, or the held program has ended.
fn until(held: &Held, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    while !done()? && held.told()?.ended_ns == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// One CPU, and all others that this thread may run on.
fn two_sets_of_cpus() -> Result<(CpuSet, CpuSet)> {
    let mut others = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| others.is_set(*cpu));
    let last = last.context("a thread without a CPU")?;
    others.unset(last);
    one.set(last);
    ensure!(others.count() > 0, "this test needs two CPUs");
    Ok((one, others))
}

/// Keeps all threads of a process on `cpus`.
fn keep_on(process: u32, cpus: &CpuSet) -> Result<()> {
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let id: i32 = entry?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(id), cpus)?;
    }
    Ok(())
}
