//! The floor of a scan: an iterator that looks at each element of a flow table, and does nothing about it.

use core::ffi::c_void;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use switcher_common::{
    address::Ipv4,
    flow::{FlowEntry, FlowKey},
};

/// What a walk is told, and what it saw.
#[btf_map]
static WALK: Array<Walk, 1> = Array::new();

/// As the bench has it too.
#[repr(C)]
struct Walk {
    /// After how many visits a read ends.
    visits: u64,
    /// Visits of the read that runs now.
    visited: u64,
    /// Elements in all.
    elements: u64,
    /// What was read of all of them: makes the reads necessary.
    sum: u64,
}

/// `struct bpf_iter__bpf_map_elem` of the kernel.
#[repr(C)]
pub struct MapElement {
    meta: *const c_void,
    map: *mut c_void,
    key: *const FlowKey<Ipv4>,
    value: *mut FlowEntry<Ipv4>,
}

/// Visits an IPv4 table.
///
/// # Safety
/// Called by the kernel with a valid context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/walk4")]
pub unsafe extern "C" fn walk4(element: *const MapElement) -> i32 {
    // SAFETY: as the caller promises.
    let element = unsafe { &*element };
    let (key, value) = (element.key, element.value);
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    if key.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: one walk is made at a time, and the kernel sets key and value or neither.
    let (walk, key, entry) = unsafe { (&mut *walk, &*key, &*value) };
    if walk.visited >= walk.visits {
        // The read ends, and the next one begins with this element.
        walk.visited = 0;
        return 1;
    }
    walk.visited += 1;
    walk.elements += 1;
    // Key and entry are in lines of the cache of their own.
    walk.sum = walk
        .sum
        .wrapping_add(u64::from(key.src_port_be) + u64::from(entry.last_seen));
    0
}
