//! The loaded program itself: enabling it, asking about it, running it on a frame of one's own.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
};

use switcher_common::ProgramSlot;

use super::{
    bpf,
    error::{Attempt as _, DataPathError},
    load::xdp_mut,
    pins::PinDir,
};

/// What the verifier and the kernel say of the programs that packets meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramFacts {
    /// Instructions that the verifier went through for the one that takes most; its limit is 1 000 000 for each.
    pub verified_instructions: u32,
    /// Size of all after the verifier's rewriting, in bytes.
    pub translated_bytes: u32,
}

/// Verdict of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `XDP_ABORTED`.
    Aborted,
    /// `XDP_DROP`.
    Drop,
    /// `XDP_PASS`.
    Pass,
    /// `XDP_TX`.
    Tx,
    /// `XDP_REDIRECT`.
    Redirect,
    /// Any other number.
    Unknown(u32),
}

impl From<u32> for Action {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            other => Self::Unknown(other),
        }
    }
}

/// Outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The verdict.
    pub action: Action,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

pub(super) fn enable(ebpf: &mut Ebpf, pins: &PinDir) -> Result<(), DataPathError> {
    // The one that is jumped to from outside comes last.
    let mut slots = ProgramSlot::ALL.into_iter().rev();
    slots.try_for_each(|slot| fill(ebpf, pins, slot))
}

/// Puts a program into its slot.
pub(super) fn fill(ebpf: &mut Ebpf, pins: &PinDir, slot: ProgramSlot) -> Result<(), DataPathError> {
    let attempt = format!("putting the program {} into its slot", slot.program());
    let mut slots: ProgramArray<MapData> = pins.open("PROGRAMS")?;
    let program = xdp_mut(ebpf, slot.program())?;
    slots
        .set(slot as u32, program.fd().attempt(&attempt)?, 0)
        .attempt(&attempt)
}

pub(super) fn facts(ebpf: &mut Ebpf) -> Result<ProgramFacts, DataPathError> {
    let mut facts = ProgramFacts::default();
    for slot in ProgramSlot::ALL {
        let info = xdp_mut(ebpf, slot.program())?
            .info()
            .attempt("asking the kernel about the program")?;
        let verified = info.verified_instruction_count().unwrap_or(0);
        facts.verified_instructions = facts.verified_instructions.max(verified);
        facts.translated_bytes += info.size_translated().unwrap_or(0);
    }
    Ok(facts)
}

/// Runs frames through the program, with a handle of its own.
pub struct Runner {
    program: OwnedFd,
}

impl Runner {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, DataPathError> {
        let program = xdp_mut(ebpf, ProgramSlot::Fast.program())?;
        Ok(Self {
            program: program
                .fd()
                .and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?))
                .attempt("opening the program")?,
        })
    }

    /// Runs one frame, as if it came in by `ifindex`, which must carry an XDP program or be 0.
    pub fn run(&self, frame: &[u8], ifindex: u32) -> Result<TestRun, DataPathError> {
        let mut out = vec![0; frame.len() + 256];
        let context = context(frame, ifindex)?;
        let context = (ifindex != 0).then_some(&context[..]);
        let (verdict, len) = bpf::test_run(self.program.as_fd(), frame, context, &mut out)
            .attempt("running the program on a frame")?;
        out.truncate(len);
        Ok(TestRun {
            action: Action::from(verdict),
            frame: out,
        })
    }
}

/// `struct xdp_md` of a frame that came in by `ifindex`, queue 0.
fn context(frame: &[u8], ifindex: u32) -> Result<[u8; 24], DataPathError> {
    let len = u32::try_from(frame.len()).attempt("measuring the frame")?;
    let mut context = [0; 24];
    for (field, value) in context.chunks_exact_mut(4).zip([0, len, 0, ifindex, 0, 0]) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    Ok(context)
}
