//! Another build of the command: its program has the same meaning and other instructions, as from
//! another compiler.

use std::{collections::BTreeSet, ops::Range};

use anyhow::{Context as _, Result, ensure};

/// `e_machine` of BPF.
const EM_BPF: u16 = 247;
/// `SHF_EXECINSTR`
const EXECUTABLE: u64 = 4;
/// Bytes of an instruction.
const SLOT: usize = 8;
/// `r = immediate`
const SET: u8 = 0xb7;
/// The only instruction of two slots.
const WIDE: u8 = 0x18;

/// Swaps neighbouring instructions that set two registers, wherever no jump leads between them, in the
/// program that `command` carries. Returns how many.
pub(super) fn rebuild(command: &mut [u8]) -> Result<usize> {
    // It is aligned, as whoever reads it needs it.
    let is_object = |at: &usize| {
        command[*at..].starts_with(b"\x7fELF\x02\x01")
            && number::<2>(command, at + 18) == Some(u64::from(EM_BPF))
    };
    let objects: Vec<usize> = (0..command.len()).step_by(8).filter(is_object).collect();
    ensure!(objects.len() == 1, "{} programs are in it", objects.len());
    let mut swapped = 0;
    for object in objects {
        for section in executable_sections(command, object)? {
            let text = command
                .get_mut(section)
                .context("a section beyond the end")?;
            swapped += swap(text);
        }
    }
    ensure!(swapped > 0, "nothing to swap in the program");
    Ok(swapped)
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + N)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

fn executable_sections(command: &[u8], object: usize) -> Result<Vec<Range<usize>>> {
    let field = |at: usize| -> Option<usize> { number::<8>(command, at)?.try_into().ok() };
    let short = |at: usize| -> Option<usize> { number::<2>(command, at)?.try_into().ok() };
    let sections = || -> Option<Vec<Range<usize>>> {
        let table = object + field(object + 40)?;
        let (size, count) = (short(object + 58)?, short(object + 60)?);
        let mut found = Vec::new();
        for header in (0..count).map(|nth| table + nth * size) {
            if number::<8>(command, header + 8)? & EXECUTABLE != 0 {
                let begin = object + field(header + 24)?;
                found.push(begin..begin + field(header + 32)?);
            }
        }
        Some(found)
    };
    sections().context("the program's object has no table of sections")
}

fn swap(text: &mut [u8]) -> usize {
    let targets = jump_targets(text);
    let (mut at, mut swapped) = (0, 0);
    while at + 2 * SLOT <= text.len() {
        let [first, second] = [at, at + SLOT].map(|it| (text[it], text[it + 1] & 0xf));
        if first.0 == WIDE {
            at += 2 * SLOT;
        } else if first.0 == SET
            && second.0 == SET
            && first.1 != second.1
            && !targets.contains(&(at + SLOT))
        {
            let (left, right) = text[at..at + 2 * SLOT].split_at_mut(SLOT);
            left.swap_with_slice(right);
            swapped += 1;
            at += 2 * SLOT;
        } else {
            at += SLOT;
        }
    }
    swapped
}

/// Where jumps lead to.
fn jump_targets(text: &[u8]) -> BTreeSet<usize> {
    const CALL: u8 = 0x80;
    const EXIT: u8 = 0x90;
    const LONG: u8 = 0x06;
    let mut targets = BTreeSet::new();
    let mut at = 0;
    while let Some(slot) = text.get(at..at + SLOT) {
        let (code, class) = (slot[0], slot[0] & 0x7);
        let is_jump = matches!(class, 0x5 | 0x6) && !matches!(code & 0xf0, CALL | EXIT);
        if is_jump {
            let far = i32::from_le_bytes([slot[4], slot[5], slot[6], slot[7]]);
            let near = i16::from_le_bytes([slot[2], slot[3]]);
            let slots = if code == LONG { far } else { near.into() };
            let distance = (slots + 1) as isize * SLOT.cast_signed();
            targets.extend(at.checked_add_signed(distance));
        }
        at += if code == WIDE { 2 * SLOT } else { SLOT };
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn set(register: u8, value: u8) -> [u8; SLOT] {
        [SET, register, 0, 0, value, 0, 0, 0]
    }

    /// `if r1 == 0 goto` so many slots on.
    const fn jump(slots: u8) -> [u8; SLOT] {
        [0x15, 1, slots, 0, 0, 0, 0, 0]
    }

    #[test]
    fn two_registers_are_set_in_the_other_order_where_no_jump_leads_between() {
        let mut text = [set(1, 5), set(2, 6), set(2, 7), set(2, 8)].concat();
        assert_eq!(swap(&mut text), 1);
        assert_eq!(text, [set(2, 6), set(1, 5), set(2, 7), set(2, 8)].concat());
        let between = [jump(1), set(1, 5), set(2, 6)].concat();
        let mut text = between.clone();
        assert_eq!(swap(&mut text), 0);
        assert_eq!(text, between);
        // The second half of a wide one may look like any instruction.
        let wide = [[WIDE, 3, 0, 0, 1, 0, 0, 0], set(1, 1), set(2, 2)].concat();
        let mut text = wide.clone();
        assert_eq!(swap(&mut text), 0);
        assert_eq!(text, wide);
    }
}
