//! Counting frames that are lost after the program's verdict: programs at tracepoints of the kernel,
//! whose pinned links count on without an agent.
//!
//! Kernels may refuse such programs; then nothing is counted, and all else works.

use aya::{
    Btf, Ebpf,
    maps::{MapData, PerCpuArray},
    programs::{BtfTracePoint, links::FdLink},
};
use switcher_common::send_error::SendError;

use super::{
    error::{Attempt as _, DataPathError},
    load::no_program,
    pins::PinDir,
};

/// The programs, each named as its tracepoint.
const TRACEPOINTS: [&str; 4] = [
    "xdp_redirect_err",
    "xdp_devmap_xmit",
    "xdp_bulk_tx",
    "xdp_exception",
];

/// Attaches the programs, unless their pinned links do so already. The links of an earlier agent stay
/// as they are: they count into the same map, and the counting has no gap.
pub(super) fn attach(ebpf: &mut Ebpf, pins: &PinDir) -> Result<(), DataPathError> {
    let missing: Vec<_> = TRACEPOINTS
        .into_iter()
        .filter(|name| !pins.tracing_link(name).exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let btf = Btf::from_sys_fs().attempt("reading the kernel's BTF at /sys/kernel/btf/vmlinux")?;
    let mut links = Vec::new();
    for name in missing {
        links.push((name, attach_one(ebpf, name, &btf)?));
    }
    pins.make_tracing()?;
    for (name, link) in links {
        link.pin(pins.tracing_link(name))
            .attempt(format!("pinning the link of {name}"))?;
    }
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<FdLink, DataPathError> {
    let program: &mut BtfTracePoint = ebpf
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| no_program(name))?;
    program
        .load(name, btf)
        .attempt(format!("loading the program {name} into the kernel"))?;
    let attempt = format!("attaching to the tracepoint {name}");
    let id = program.attach().attempt(&attempt)?;
    let link = program.take_link(id).attempt(&attempt)?;
    Ok(link.into())
}

/// The counters.
pub(super) struct SendErrorCounters {
    map: PerCpuArray<MapData, u64>,
}

impl SendErrorCounters {
    /// `None`: nothing counts.
    pub(super) fn open(pins: &PinDir) -> Result<Option<Self>, DataPathError> {
        let counts = |name: &&str| pins.tracing_link(name).exists();
        if !TRACEPOINTS.iter().all(counts) {
            return Ok(None);
        }
        let map = pins.open("SEND_ERRORS")?;
        Ok(Some(Self { map }))
    }

    /// Frames that were lost so, since the data path was loaded: of all XDP programs of this kernel.
    pub(super) fn read(&self, error: SendError) -> Result<u64, DataPathError> {
        let per_cpu = self
            .map
            .get(&(error as u32), 0)
            .attempt("reading the counters of send errors")?;
        Ok(per_cpu.iter().sum())
    }
}
