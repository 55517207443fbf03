//! What goes wrong with frames, by accident or on purpose.

use fastrand::Rng;

/// Changes a frame in one of many ways. It may stay as it is.
pub(in crate::fuzz) fn mutate(rng: &mut Rng, frame: &mut Vec<u8>) {
    match rng.u8(..16) {
        0..4 => flip_in_headers(rng, frame),
        4..6 => {
            // The kernel takes no frame without an Ethernet header.
            let len = rng.usize(14..=frame.len());
            frame.truncate(len);
        }
        6 => frame.resize(frame.len() + rng.usize(1..40), rng.u8(..)),
        7 => set_time_to_live(rng, frame),
        8 => set_ip_length(rng, frame),
        9 => set_first_ip_byte(rng, frame),
        10 => fragment_bits(rng, frame),
        11 => set_protocol(rng, frame),
        12 => set_udp_length_or_data_offset(rng, frame),
        13 => swap_ends(frame),
        14 => set_ethertype(rng, frame),
        _ => {
            for _ in 0..rng.usize(2..8) {
                flip_in_headers(rng, frame);
            }
        }
    }
}

fn set(frame: &mut [u8], at: usize, byte: u8) {
    if let Some(place) = frame.get_mut(at) {
        *place = byte;
    }
}

fn is_v4(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
}

fn flip_in_headers(rng: &mut Rng, frame: &mut [u8]) {
    let at = rng.usize(12..frame.len().clamp(13, 90));
    let bit = 1 << rng.u8(..8);
    if let Some(byte) = frame.get_mut(at) {
        *byte ^= bit;
    }
}

fn set_time_to_live(rng: &mut Rng, frame: &mut [u8]) {
    let at = if is_v4(frame) { 22 } else { 21 };
    set(frame, at, rng.u8(..3));
}

fn set_ip_length(rng: &mut Rng, frame: &mut [u8]) {
    let at = if is_v4(frame) { 16 } else { 18 };
    let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
    let new = match rng.u8(..4) {
        0 => rng.u16(..),
        1 => rng.u16(..=len),
        2 => len.saturating_sub(14).saturating_sub(rng.u16(..8)),
        _ => rng.u16(..64),
    };
    let [high, low] = new.to_be_bytes();
    set(frame, at, high);
    set(frame, at + 1, low);
}

fn set_first_ip_byte(rng: &mut Rng, frame: &mut [u8]) {
    let new = if rng.bool() {
        rng.u8(..)
    } else {
        0x40 | rng.u8(..16)
    };
    set(frame, 14, new);
}

fn fragment_bits(rng: &mut Rng, frame: &mut [u8]) {
    if is_v4(frame) {
        let bits = [0x2000, 0x0001, 0x2001, 0x8000, 0x1fff, 0x4000][rng.usize(..6)];
        let [high, low] = u16::to_be_bytes(bits);
        set(frame, 20, high);
        set(frame, 21, low);
    } else {
        set(frame, 20, 44);
    }
}

fn set_protocol(rng: &mut Rng, frame: &mut [u8]) {
    let at = if is_v4(frame) { 23 } else { 20 };
    let some = [0, 1, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132];
    let new = if rng.bool() {
        some[rng.usize(..some.len())]
    } else {
        rng.u8(..)
    };
    set(frame, at, new);
}

fn set_udp_length_or_data_offset(rng: &mut Rng, frame: &mut [u8]) {
    let transport = if is_v4(frame) { 34 } else { 54 };
    if rng.bool() {
        let [high, low] = rng.u16(..64).to_be_bytes();
        set(frame, transport + 4, high);
        set(frame, transport + 5, low);
    } else {
        set(frame, transport + 12, rng.u8(..));
    }
}

fn swap_ends(frame: &mut [u8]) {
    let (at, len, ports) = if is_v4(frame) {
        (26, 4, 34)
    } else {
        (22, 16, 54)
    };
    if frame.len() < ports + 4 {
        return;
    }
    for offset in 0..len {
        frame.swap(at + offset, at + len + offset);
    }
    frame.swap(ports, ports + 2);
    frame.swap(ports + 1, ports + 3);
}

fn set_ethertype(rng: &mut Rng, frame: &mut [u8]) {
    let some: [u16; 7] = [0x0806, 0x8100, 0x88a8, 0x0800, 0x86dd, 0x8847, 0x0100];
    let [high, low] = some[rng.usize(..some.len())].to_be_bytes();
    set(frame, 12, high);
    set(frame, 13, low);
}
