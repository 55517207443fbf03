//! A program whose run a test holds open for as long as it likes: one that has read the switch state's
//! outer slot, as the packets' program does, and looks at what it found there once more at its end.

use std::{
    mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use aya_obj::{
    btf::{Btf, BtfType, Func, FuncLinkage, FuncProto, Int, IntEncoding},
    generated::{bpf_cmd, bpf_map_type, bpf_prog_type},
};
use switcher_common::service::ServiceSwitch;

use super::raw::{bpf, descriptor, zeroed};

/// A run that nobody lets go ends by itself after this time, long before the kernel complains of it.
const LONGEST_NS: u64 = 3_000_000_000;
/// `BPF_MAX_LOOPS`, the most rounds of one `bpf_loop`; with one after the other it is time that decides.
const ROUNDS: i32 = 1 << 23;
const LOOPS: usize = 16;

/// What the program tells. Instants are `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct HeldRun {
    /// 1 as soon as it has read the slot.
    pub has_read: u64,
    /// When it ends by itself.
    pub until_ns: u64,
    /// The service's generation as it read it then.
    pub generation: u64,
    /// As it read it, from the same place, at its end.
    pub generation_at_end: u64,
    /// Its end; 0: it runs.
    pub ended_ns: u64,
}

// SAFETY: plain integers without padding.
unsafe impl aya::Pod for HeldRun {}

/// The program, and what it tells.
pub struct Held {
    program: OwnedFd,
    told: Array<MapData, HeldRun>,
}

/// Lets the program's run end.
pub struct LetGo(Array<MapData, u64>);

impl LetGo {
    /// Now.
    pub fn let_go(mut self) -> Result<()> {
        self.0.set(0, 1, 0).context("letting the program go")
    }
}

impl Held {
    /// Loads the program; it reads the state of the service with the id `service` from the slot of
    /// `outer`.
    pub fn load(outer: BorrowedFd<'_>, service: i32) -> Result<(Self, LetGo)> {
        let let_go = array(size_of::<u64>(), "let_go")?;
        let told = array(size_of::<HeldRun>(), "told")?;
        let fd = |map: &MapData| map.fd().as_fd().as_raw_fd();
        let (text, waits_at) = program(outer.as_raw_fd(), service, fd(&let_go), fd(&told));
        let held = Self {
            program: load(&text, waits_at).context("loading the program that is held")?,
            told: Map::from_map_data(told)?.try_into()?,
        };
        Ok((held, LetGo(Map::from_map_data(let_go)?.try_into()?)))
    }

    /// Runs it; returns when it was let go, or has waited long enough.
    pub fn run(&self) -> Result<()> {
        let frame = [0_u8; 64];
        let mut attr = zeroed();
        attr.test.prog_fd = self.program.as_raw_fd().unsigned_abs();
        attr.test.data_in = frame.as_ptr() as u64;
        attr.test.data_size_in = u32::try_from(frame.len())?;
        attr.test.repeat = 1;
        bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).context("running the program that is held")?;
        Ok(())
    }

    /// What it has told so far.
    pub fn told(&self) -> Result<HeldRun> {
        self.told.get(&0, 0).context("asking the program")
    }
}

fn array(size: usize, name: &str) -> Result<MapData> {
    let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let size = u32::try_from(size)?;
    let definition = aya_obj::Map::new_from_params(kind, 4, size, 1, 0);
    MapData::create(definition, name, None).with_context(|| format!("creating the map {name}"))
}

/// Instructions, as the kernel's `linux/bpf.h` numbers them.
struct Text(Vec<u64>);

impl Text {
    fn push(&mut self, code: u8, registers: [u8; 2], offset: i16, immediate: i32) {
        let [to, from] = registers;
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        let bytes = [code, to | (from << 4), low, high, a, b, c, d];
        self.0.push(u64::from_le_bytes(bytes));
    }

    fn set(&mut self, to: u8, immediate: i32) {
        self.push(0xb7, [to, 0], 0, immediate);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.push(0xbf, [to, from], 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.push(0x85, [0, 0], 0, helper);
    }

    /// `to = *(from + offset)`, 64 bits.
    fn read(&mut self, to: u8, from: u8, offset: usize) {
        self.push(
            0x79,
            [to, from],
            i16::try_from(offset).unwrap_or(i16::MAX),
            0,
        );
    }

    /// `*(to + offset) = from`, 64 bits.
    fn write(&mut self, to: u8, offset: usize, from: u8) {
        self.push(
            0x7b,
            [to, from],
            i16::try_from(offset).unwrap_or(i16::MAX),
            0,
        );
    }

    /// 64 bits; `kind` says of what.
    fn wide(&mut self, to: u8, kind: u8, immediate: u64) {
        let [low, high] = [immediate & 0xffff_ffff, immediate >> 32];
        let half = |half: u64| u32::try_from(half).unwrap_or_default().cast_signed();
        self.push(0x18, [to, kind], 0, half(low));
        self.push(0, [0, 0], 0, half(high));
    }

    /// `r0` = address of the element `key`; the map is a descriptor, or in `r1` already.
    fn look_up(&mut self, map: Option<i32>, key: i32) {
        if let Some(map) = map {
            self.wide(1, PSEUDO_MAP_FD, u64::from(map.unsigned_abs()));
        }
        self.push(0x62, [10, 0], -4, key);
        self.copy(2, 10);
        self.push(0x07, [2, 0], 0, -4);
        self.call(MAP_LOOKUP_ELEM);
    }

    /// Ends with `code`, where `r0` is 0.
    fn end_if_none(&mut self, code: i32) {
        self.push(0x55, [0, 0], 2, 0);
        self.end(code);
    }

    fn end(&mut self, code: i32) {
        self.set(0, code);
        self.push(0x95, [0, 0], 0, 0);
    }
}

const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_FUNC: u8 = 4;
const MAP_LOOKUP_ELEM: i32 = 1;
const KTIME_GET_NS: i32 = 5;
const LOOP: i32 = 181;
const XDP_ABORTED: i32 = 0;
const XDP_PASS: i32 = 2;

/// The instructions, and where the function begins that waits.
fn program(outer: i32, service: i32, let_go: i32, told: i32) -> (Vec<u64>, usize) {
    let mut text = Text(Vec::new());
    // r6: the service's state in the inner map that is in the slot now. r8: what is told.
    text.look_up(Some(outer), 0);
    text.end_if_none(XDP_ABORTED);
    text.copy(1, 0);
    text.look_up(None, service);
    text.end_if_none(XDP_ABORTED);
    text.copy(6, 0);
    text.look_up(Some(told), 0);
    text.end_if_none(XDP_ABORTED);
    text.copy(8, 0);
    text.call(KTIME_GET_NS);
    text.wide(1, 0, LONGEST_NS);
    text.push(0x0f, [0, 1], 0, 0);
    text.write(8, mem::offset_of!(HeldRun, until_ns), 0);
    let generation = mem::offset_of!(ServiceSwitch, generation);
    text.read(1, 6, generation);
    text.write(8, mem::offset_of!(HeldRun, generation), 1);
    text.set(1, 1);
    text.write(8, mem::offset_of!(HeldRun, has_read), 1);
    let mut loops = Vec::new();
    for _ in 0..LOOPS {
        text.set(1, ROUNDS);
        loops.push(text.0.len());
        text.wide(2, PSEUDO_FUNC, 0);
        text.set(3, 0);
        text.set(4, 0);
        text.call(LOOP);
    }
    text.read(1, 6, generation);
    text.write(8, mem::offset_of!(HeldRun, generation_at_end), 1);
    text.call(KTIME_GET_NS);
    text.write(8, mem::offset_of!(HeldRun, ended_ns), 0);
    text.end(XDP_PASS);
    // Each round: 1 ends the loop.
    let waits_at = text.0.len();
    text.look_up(Some(let_go), 0);
    text.end_if_none(1);
    text.read(1, 0, 0);
    text.push(0x15, [1, 0], 2, 0);
    text.end(1);
    text.look_up(Some(told), 0);
    text.end_if_none(1);
    text.copy(6, 0);
    text.call(KTIME_GET_NS);
    text.read(1, 6, mem::offset_of!(HeldRun, until_ns));
    text.push(0xad, [0, 1], 2, 0);
    text.end(1);
    text.end(0);
    for at in loops {
        // Counted from the instruction behind, which is the second half.
        let distance = u64::try_from(waits_at - at - 1).unwrap_or_default();
        text.0[at] |= distance << 32;
    }
    (text.0, waits_at)
}

/// Loads the instructions. A function that a helper calls needs type information.
fn load(text: &[u64], waits_at: usize) -> Result<OwnedFd> {
    let mut btf = Btf::new();
    let name = btf.add_string("int");
    let int = btf.add_type(BtfType::Int(Int::new(name, 4, IntEncoding::Signed, 0)));
    let proto = btf.add_type(BtfType::FuncProto(FuncProto::new(Vec::new(), int)));
    let mut functions = Vec::new();
    for (name, at) in [("held", 0), ("waits", waits_at)] {
        let name = btf.add_string(name);
        let function = Func::new(name, proto, FuncLinkage::Static);
        functions.extend([u32::try_from(at)?, btf.add_type(BtfType::Func(function))]);
    }
    let bytes = btf.to_bytes();
    let mut attr = zeroed();
    attr.__bindgen_anon_7.btf = bytes.as_ptr() as u64;
    attr.__bindgen_anon_7.btf_size = u32::try_from(bytes.len())?;
    let btf = descriptor(bpf_cmd::BPF_BTF_LOAD, &mut attr).context("loading its types")?;
    let mut log = vec![0_u8; 65_536];
    let mut attr = zeroed();
    // SAFETY: all fields of the union are plain integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_XDP as u32;
    load.insns = text.as_ptr() as u64;
    load.insn_cnt = u32::try_from(text.len())?;
    load.license = c"GPL".as_ptr() as u64;
    load.prog_btf_fd = btf.as_raw_fd().unsigned_abs();
    load.func_info = functions.as_ptr() as u64;
    load.func_info_cnt = 2;
    load.func_info_rec_size = 8;
    load.log_level = 1;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = u32::try_from(log.len())?;
    descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr).with_context(|| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(0);
        format!("the verifier: {}", String::from_utf8_lossy(&log[..end]))
    })
}
