//! The harness: frames go one after the other through a program, which the kernel times.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, Xdp, XdpMode, loaded_programs},
};
use serde::Serialize;
use switcher_common::{
    address::{Address, Ipv4, Ipv6},
    flow::{FlowEntry, FlowKey},
};
use switcher_tests::bpf::{pinned_link, update_batch};
use switcher_userspace::datapath::Action;

use super::{frames::Frame, target::Target};
use crate::object::OBJECT;

/// Frames that the harness can hold.
pub(crate) const MOST_FRAMES: u32 = 1_000_000;
/// Elements that are written at once.
const BATCH: usize = 65_536;

// SAFETY: plain integers without padding.
unsafe impl aya::Pod for Target {}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Program {
    /// Nothing: what the harness costs.
    Pass,
    /// The kernel's route, MAC addresses, a redirect.
    RouterFloor,
    /// A hit in an LRU, a constant translation, a transmission.
    LookupFloorLru,
    /// The same with a plain hash map.
    LookupFloorHash,
    /// A lookup and two insertions into an LRU.
    TwoInserts,
    /// The switcher's, as it is attached: dispatcher and program.
    Switcher,
}

impl Program {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::RouterFloor => "router_floor",
            Self::LookupFloorLru => "lookup_floor_lru",
            Self::LookupFloorHash => "lookup_floor_hash",
            Self::TwoInserts => "two_inserts",
            Self::Switcher => "switcher",
        }
    }

    const COUNT: usize = 6;
    const OWN: [Self; Self::COUNT - 1] = [
        Self::Pass,
        Self::RouterFloor,
        Self::LookupFloorLru,
        Self::LookupFloorHash,
        Self::TwoInserts,
    ];
}

/// Sizes of the floors' maps: those of the switcher's tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) established: u32,
    pub(crate) unanswered: u32,
}

/// How frames come in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ingress {
    /// Index of an interface that carries an XDP program.
    pub(crate) interface: u32,
    /// Length of the frames.
    pub(crate) frame_len: usize,
}

/// One run of a program over some frames.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Nanoseconds for each frame.
    pub(crate) ns: f64,
    /// Verdict on the last one.
    pub(crate) action: Action,
    /// What the last one has become.
    pub(crate) frame: Vec<u8>,
}

/// The loaded harness.
pub(crate) struct Replay {
    ebpf: Ebpf,
    next: ProgramArray<MapData>,
    cursor: Array<MapData, [u32; 3]>,
    frames: Frames,
    switcher: ProgramFd,
    current: Option<Program>,
}

/// What is in the harness.
#[derive(Clone, Copy, Debug, Default)]
struct Frames {
    count: u32,
    /// Length of each.
    len: u32,
    /// Number of the one that comes next, by program: each goes through all of them.
    next: [u32; Program::COUNT],
}

impl Replay {
    /// Loads it; the switcher's program is the one that the link at `link` carries. `parked` is an interface that is down.
    ///
    /// Before and after each run of a program that no interface carries the kernel waits for a grace period, since it
    /// makes that program's call a direct one (`bpf_prog_change_xdp`).
    pub(crate) fn load(link: &std::path::Path, parked: &str, sizes: Sizes) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("FRAMES", MOST_FRAMES);
        for (map, entries) in [
            ("HASH4", sizes.established),
            ("HASH6", sizes.established),
            ("LRU4", sizes.established),
            ("LRU6", sizes.established),
            ("NEW4", sizes.unanswered),
            ("NEW6", sizes.unanswered),
        ] {
            loader.map_max_entries(map, entries);
        }
        let mut ebpf = loader.load(OBJECT).context("loading the bench's object")?;
        let own = Program::OWN.map(Program::name);
        for name in own.iter().chain(&["replay"]) {
            xdp(&mut ebpf, name)?
                .load()
                .with_context(|| format!("loading the program {name}"))?;
        }
        xdp(&mut ebpf, "replay")?
            .attach(parked, XdpMode::Driver)
            .with_context(|| format!("attaching the harness to {parked}, which is down"))?;
        let next = ebpf.take_map("NEXT").context("no map NEXT")?;
        let cursor = ebpf.take_map("CURSOR").context("no map CURSOR")?;
        let id = pinned_link(link)?.program;
        let mut programs = loaded_programs().filter_map(Result::ok);
        let switcher = programs.find(|program| program.id() == id);
        let switcher = switcher.with_context(|| format!("the link carries no program {id}"))?;
        Ok(Self {
            next: next.try_into()?,
            cursor: cursor.try_into()?,
            frames: Frames::default(),
            switcher: switcher.fd().context("opening the switcher's program")?,
            ebpf,
            current: None,
        })
    }

    /// These come from now on, the first one first; of each, so many bytes.
    pub(crate) fn set_frames(&mut self, frames: &[Frame], frame_len: usize) -> Result<()> {
        let len = u32::try_from(frames.len())?;
        ensure!(
            (1..=MOST_FRAMES).contains(&len),
            "{len} frames; the harness has room for {MOST_FRAMES}"
        );
        let keys: Vec<u32> = (0..len).collect();
        self.frames = Frames {
            count: len,
            len: u32::try_from(frame_len)?,
            next: [0; Program::COUNT],
        };
        self.fill("FRAMES", &keys, frames)
    }

    /// Sets what the floors make of all packets.
    pub(crate) fn set_target(&mut self, target: Target) -> Result<()> {
        let map = self.ebpf.map_mut("TARGET").context("no map TARGET")?;
        let mut map: Array<_, Target> = map.try_into()?;
        map.set(0, target, 0).context("setting the floors' target")
    }

    /// Lets the lookup floors know IPv4 flows.
    pub(crate) fn add_flows_v4(&self, keys: &[FlowKey<Ipv4>]) -> Result<()> {
        self.add_flows(["HASH4", "LRU4"], keys)
    }

    /// Lets the lookup floors know IPv6 flows.
    pub(crate) fn add_flows_v6(&self, keys: &[FlowKey<Ipv6>]) -> Result<()> {
        self.add_flows(["HASH6", "LRU6"], keys)
    }

    fn add_flows<A: Address>(&self, maps: [&str; 2], keys: &[FlowKey<A>]) -> Result<()> {
        let entry = FlowEntry::<A> {
            state: 1,
            ..bytemuck::Zeroable::zeroed()
        };
        let entries = vec![entry; keys.len()];
        maps.into_iter()
            .try_for_each(|map| self.fill(map, keys, &entries))
    }

    fn fill<K: Copy, V: Copy>(&self, name: &str, keys: &[K], values: &[V]) -> Result<()> {
        let map = self
            .ebpf
            .map(name)
            .with_context(|| format!("no map {name}"))?;
        let data = match map {
            aya::maps::Map::Array(data)
            | aya::maps::Map::HashMap(data)
            | aya::maps::Map::LruHashMap(data) => data,
            other => anyhow::bail!("{name} is {other:?}"),
        };
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            update_batch(data.fd().as_fd(), keys, values)
                .with_context(|| format!("filling the map {name}"))?;
        }
        Ok(())
    }

    /// Runs the next `frames` frames through `program`.
    pub(crate) fn run(&mut self, program: Program, ingress: Ingress, frames: u32) -> Result<Run> {
        self.set_next(program)?;
        let at = &mut self.frames.next[program as usize];
        self.cursor
            .set(0, [*at, self.frames.count, self.frames.len], 0)
            .context("winding the harness to the program's next frame")?;
        *at = u32::try_from((u64::from(*at) + u64::from(frames)) % u64::from(self.frames.count))?;
        let blank = vec![0; ingress.frame_len];
        let mut out = vec![0; ingress.frame_len];
        let context = context(ingress)?;
        let options = TestRunOptions {
            data_in: Some(&blank),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat: frames,
            ..TestRunOptions::new()
        };
        let replay = xdp(&mut self.ebpf, "replay")?;
        let run = replay
            .test_run(options)
            .with_context(|| format!("running {program:?} over {frames} frames"))?;
        Ok(Run {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
            ns: run.duration.as_nanos() as f64,
            action: Action::from(run.return_value),
            frame: out,
        })
    }

    /// Another jump is another patch of the harness, so it is made outside of what is timed.
    fn set_next(&mut self, program: Program) -> Result<()> {
        if self.current == Some(program) {
            return Ok(());
        }
        let own;
        let fd = if program == Program::Switcher {
            &self.switcher
        } else {
            own = xdp(&mut self.ebpf, program.name())?.fd()?.try_clone()?;
            &own
        };
        self.next
            .set(0, fd, 0)
            .with_context(|| format!("letting the harness jump to {program:?}"))?;
        self.current = Some(program);
        Ok(())
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// `struct xdp_md` of a frame that comes in by queue 0.
fn context(ingress: Ingress) -> Result<[u8; 24]> {
    let len = u32::try_from(ingress.frame_len)?;
    let mut context = [0; 24];
    let fields = [0, len, 0, ingress.interface, 0, 0];
    for (field, value) in context.chunks_exact_mut(4).zip(fields) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    Ok(context)
}
