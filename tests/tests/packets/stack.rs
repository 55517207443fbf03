//! What the programs need of the stack, counted in the built object as `check_max_stack_depth` of
//! kernels before 6.9 does it: the kernel that runs this test may be newer, and round to 16 bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    iter,
};

use anyhow::{Context as _, Result};
use aya_obj::{
    Object,
    generated::{
        BPF_ADD, BPF_ALU64, BPF_CALL, BPF_DW, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MOV,
        BPF_PSEUDO_CALL, BPF_PSEUDO_FUNC, BPF_ST, BPF_STX, BPF_X, bpf_insn,
    },
};
use switcher_common::ProgramSlot;
use switcher_userspace::datapath::OBJECT;

/// `MAX_BPF_STACK`.
const STACK_BYTES: u32 = 512;

/// `MAX_CALL_FRAMES`.
const MOST_FRAMES: usize = 8;

/// What frames are rounded up to.
const GRANULE: u32 = 32;

/// The register that holds the frame's end.
const FRAME: u8 = 10;

/// Loads 64 bits: a function's address, where its source says so.
const LOAD_ADDRESS: u32 = BPF_LD | BPF_DW;

struct Function {
    name: String,
    depth: u32,
    callees: BTreeSet<usize>,
}

/// The functions of one program by their first instructions; its entry is at 0.
type Graph = BTreeMap<usize, Function>;

type Chain<'a> = Vec<&'a Function>;

/// Where the function begins that an instruction calls, or hands to a helper that calls it.
fn callee(at: usize, insn: bpf_insn) -> Option<usize> {
    let called = match u32::from(insn.code) {
        code if code == BPF_JMP | BPF_CALL => BPF_PSEUDO_CALL,
        LOAD_ADDRESS => BPF_PSEUDO_FUNC,
        _ => return None,
    };
    let distance = isize::try_from(insn.imm).ok()?;
    (u32::from(insn.src_reg()) == called).then(|| (at + 1).checked_add_signed(distance))?
}

/// How far below the frame's end an instruction reaches, given the one after it.
fn reach(insn: bpf_insn, next: Option<&bpf_insn>) -> u32 {
    let from_end = match u32::from(insn.code) & 0x07 {
        BPF_LDX if insn.src_reg() == FRAME => i32::from(insn.off),
        BPF_ST | BPF_STX if insn.dst_reg() == FRAME => i32::from(insn.off),
        BPF_ALU64 if u32::from(insn.code) & BPF_X != 0 && insn.src_reg() == FRAME => {
            address(insn, next).expect("the frame's end is used in a way unknown to this test")
        }
        _ => 0,
    };
    from_end.min(0).unsigned_abs()
}

/// An address in the frame, always made by two instructions: a copy of the end, less a constant.
fn address(copy: bpf_insn, next: Option<&bpf_insn>) -> Option<i32> {
    let add = next.filter(|next| u32::from(next.code) == BPF_ALU64 | BPF_ADD | BPF_K)?;
    let known = u32::from(copy.code) == BPF_ALU64 | BPF_MOV | BPF_X;
    (known && copy.dst_reg() == add.dst_reg()).then_some(add.imm)
}

fn depth(body: &[bpf_insn]) -> u32 {
    let next = body.iter().skip(1).map(Some).chain(iter::once(None));
    let reached = iter::zip(body, next).map(|(insn, next)| reach(*insn, next));
    reached.max().unwrap_or(0)
}

/// The functions of a program that aya has linked into one run of instructions.
fn graph(linked: &[bpf_insn], name: impl Fn(&[bpf_insn]) -> String) -> Graph {
    let calls = |range: std::ops::Range<usize>| range.filter_map(|at| callee(at, linked[at]));
    let starts: BTreeSet<_> = iter::once(0).chain(calls(0..linked.len())).collect();
    let ends = starts.iter().skip(1).copied().chain([linked.len()]);
    iter::zip(starts.iter().copied(), ends)
        .map(|(start, end)| {
            let body = &linked[start..end];
            let function = Function {
                name: name(body),
                depth: depth(body),
                callees: calls(start..end).collect(),
            };
            (start, function)
        })
        .collect()
}

/// What linking leaves of an instruction: it sets the distances of calls, and which loads are such.
fn unlinked(insn: bpf_insn) -> (u8, u8, i16, Option<i32>) {
    let code = u32::from(insn.code);
    let kept = code != BPF_JMP | BPF_CALL && code != LOAD_ADDRESS;
    let imm = kept.then_some(insn.imm);
    (insn.code, insn.dst_reg(), insn.off, imm)
}

/// The call graphs of all programs of the object.
fn graphs() -> Result<Vec<Graph>> {
    let mut object = Object::parse(OBJECT)?;
    let sections = object.functions.keys().map(|(section, _)| *section);
    object.relocate_calls(&sections.collect())?;
    let name = |body: &[bpf_insn]| {
        let same = |all: &[bpf_insn]| {
            // A program's own instructions are the first of those linked to it.
            let first = all.iter().copied().take(body.len()).map(unlinked);
            first.eq(body.iter().copied().map(unlinked))
        };
        let mut functions = object.functions.values();
        let found = functions.find(|function| same(&function.instructions));
        found.map_or_else(String::new, |function| function.name.clone())
    };
    let keys = object.programs.values().map(aya_obj::Program::function_key);
    Ok(keys
        .map(|key| graph(&object.functions[&key].instructions, name))
        .collect())
}

/// All ways from `at`, below the functions in `above`.
fn chains<'a>(graph: &'a Graph, at: usize, above: &[&'a Function]) -> Vec<Chain<'a>> {
    let function = &graph[&at];
    let chain = [above, &[function]].concat();
    // One with too many frames is not followed further: it may be a loop.
    if function.callees.is_empty() || chain.len() > MOST_FRAMES {
        return vec![chain];
    }
    let below = |callee| chains(graph, callee, &chain);
    function.callees.iter().copied().flat_map(below).collect()
}

fn bytes(chain: &[&Function]) -> u32 {
    let frames = chain.iter().map(|function| function.depth.max(1));
    frames.map(|depth| depth.next_multiple_of(GRANULE)).sum()
}

fn fits(chain: &[&Function]) -> bool {
    bytes(chain) <= STACK_BYTES && chain.len() <= MOST_FRAMES
}

fn describe(chain: &[&Function]) -> String {
    let frame = |function: &&Function| format!("{} ({})", function.name, function.depth);
    let frames: Vec<_> = chain.iter().map(frame).collect();
    format!("{} bytes: {}", bytes(chain), frames.join(" -> "))
}

#[test]
fn the_stack_of_every_chain_of_calls_fits_on_kernels_that_round_frames_to_32_bytes() -> Result<()> {
    let graphs = graphs()?;
    let all = graphs.iter().flat_map(|graph| chains(graph, 0, &[]));
    let (fitting, others): (Vec<_>, Vec<_>) = all.partition(|chain| fits(chain));
    let others: Vec<_> = others.iter().map(|chain| describe(chain)).collect();
    assert!(
        others.is_empty(),
        "more than {STACK_BYTES} bytes or {MOST_FRAMES} frames:\n{}",
        others.join("\n")
    );
    let deepest = fitting.iter().max_by_key(|chain| bytes(chain));
    let deepest = deepest.expect("the object has a program");
    let found = deepest.len() > 1 && deepest.iter().any(|function| function.depth > 0);
    assert!(found, "no calls or no frames seen: {}", describe(deepest));
    // Past the capture of the test runner, so that a CI log shows it.
    writeln!(std::io::stdout().lock(), "stack: {}", describe(deepest))?;
    Ok(())
}

#[test]
fn programs_that_jump_to_others_call_no_function() -> Result<()> {
    // Kernels without a JIT refuse what does both, and so do those for arm64 before 6.0 (`allow_tail_call_in_subprogs`).
    for slot in [ProgramSlot::Fast.program(), "dispatch"] {
        let graph = graphs()?
            .into_iter()
            .find(|graph| graph.get(&0).is_some_and(|entry| entry.name == slot));
        let graph = graph.with_context(|| format!("no program {slot}"))?;
        assert_eq!(graph.len(), 1, "{slot} calls functions");
    }
    Ok(())
}

#[test]
fn frames_are_rounded_up_each_and_summed_along_each_chain_of_calls() {
    let function = |depth, callees: &[usize]| Function {
        name: format!("f{depth}"),
        depth,
        callees: callees.iter().copied().collect(),
    };
    // The entry calls one that fits below it, and one that does so only without what it calls.
    let functions = [(0, &[1, 2][..]), (480, &[]), (449, &[3]), (1, &[])];
    let functions = functions.map(|(depth, callees)| function(depth, callees));
    let graph: Graph = functions.into_iter().enumerate().collect();
    let found = chains(&graph, 0, &[]);
    let [fitting, other] = &found[..] else {
        panic!("{} chains", found.len());
    };
    assert_eq!(describe(fitting), "512 bytes: f0 (0) -> f480 (480)");
    assert_eq!(describe(other), "544 bytes: f0 (0) -> f449 (449) -> f1 (1)");
    assert!(fits(fitting) && !fits(other));

    let endless = Graph::from([(0, function(8, &[0]))]);
    assert!(!fits(&chains(&endless, 0, &[])[0]));
}
