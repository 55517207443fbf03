//! Datagrams in parts, and IPv6 extension headers of all kinds.

use fastrand::Rng;

use super::build::{Body, Draft, Part};

/// The frames of a datagram in two or three fragments, in order.
pub(super) fn split(rng: &mut Rng, draft: &Draft) -> Vec<Vec<u8>> {
    let (protocol, bytes) = draft.body();
    // Of few identifications, so that some meet.
    let identification = u32::from(rng.u8(..16)) | if rng.bool() { 0x1_0000 } else { 0 };
    let mut cuts = vec![0, 8 * rng.usize(1..=(bytes.len() / 8).max(1)).min(4)];
    if rng.bool() {
        cuts.push(cuts[1] + 8);
    }
    cuts.retain(|cut| *cut < bytes.len());
    let mut frames = Vec::new();
    for (number, begin) in cuts.iter().enumerate() {
        let end = cuts.get(number + 1).copied().unwrap_or(bytes.len());
        let mut part = draft.clone();
        part.body = Body::Raw {
            protocol,
            payload: bytes[*begin..end].to_vec(),
        };
        let info = Part {
            offset: u16::try_from(begin / 8).expect("a short datagram"),
            more: end < bytes.len(),
            identification,
        };
        part.set_part(&info);
        frames.push(part.frame());
    }
    frames
}

/// A chain of extension headers: good ones, ones beyond the limits, and broken ones.
pub(super) fn extensions(rng: &mut Rng) -> Vec<(u8, Vec<u8>)> {
    let count = match rng.u8(..8) {
        0 => rng.usize(5..9),
        _ => rng.usize(1..4),
    };
    let mut chain = Vec::new();
    for number in 0..count {
        let kind = match rng.u8(..10) {
            0..3 if number == 0 => 0,
            3 => 43,
            4 => 44,
            5 => [0, 44, 51, 135][rng.usize(..4)],
            _ => 60,
        };
        let mut units = usize::from(rng.u8(..2));
        if rng.u8(..12) == 0 {
            units = rng.usize(..33);
        }
        if kind == 44 {
            units = 0;
        }
        let mut bytes = vec![1; (units + 1) * 8];
        bytes[1] = u8::try_from(units).expect("few");
        if rng.u8(..24) == 0 {
            bytes[1] = rng.u8(..);
        }
        // Segments left; or no offset, and no more fragments.
        (bytes[2], bytes[3]) = (0, u8::from(rng.u8(..6) == 0));
        chain.push((kind, bytes));
    }
    chain
}
