//! The memory that a packet is worked on in: too large for the stack of 512 bytes.
//!
//! One per CPU and family. Only the XDP program uses it, which no other run of itself interrupts on
//! its CPU; iterators, which it does interrupt, use their stacks.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use switcher_common::{
    address::{Address, Ipv4, Ipv6},
    flow::{FlowEntry, FlowKey, Progress, Segment},
    packet::{FragmentKey, IpPacket},
};

use crate::route::FibLookup;

/// Copies a value by words of eight bytes, which the compiler would not do for what may lie anywhere: it makes a
/// loop over bytes of it, for the packet and for the verifier.
///
/// # Safety
/// `from` is a value of a map or a copy of one; both lie at a multiple of eight bytes.
#[inline(always)]
pub(crate) unsafe fn copy_words<T>(to: *mut T, from: *const T) {
    const WORD: usize = size_of::<u64>();
    const HALF: usize = size_of::<u32>();
    let (to_words, from_words) = (to.cast::<u64>(), from.cast::<u64>());
    let words = size_of::<T>() / WORD;
    let mut at = 0;
    while at < words {
        // SAFETY: as the caller promises. Volatile: read once, whatever other CPUs write meanwhile.
        unsafe { to_words.add(at).write(from_words.add(at).read_volatile()) };
        at += 1;
    }
    const { assert!(matches!(size_of::<T>() % WORD, 0 | HALF)) };
    if size_of::<T>() % WORD == HALF {
        // SAFETY: as above; the rest of four bytes is a part of both.
        unsafe {
            let rest = from_words.add(words).cast::<u32>().read_volatile();
            to_words.add(words).cast::<u32>().write(rest);
        }
    }
}

/// A copy of a value of a map, taken as [`copy_words`] does.
///
/// # Safety
/// As of that.
#[inline(always)]
pub(crate) unsafe fn copied<T>(from: *const T) -> T {
    /// Lies where words may.
    #[repr(align(8))]
    struct Place<T>(T);
    let mut place = MaybeUninit::<Place<T>>::uninit();
    // SAFETY: as the caller promises; all of it is written, and the value is the first thing in its place.
    unsafe {
        copy_words(place.as_mut_ptr().cast::<T>(), from);
        place.assume_init().0
    }
}

/// What is known of a packet and its flow.
#[repr(C)]
pub(crate) struct Work<A> {
    /// The packet's IP header.
    pub ip: IpPacket<A>,
    /// What its flow's state depends on.
    pub segment: Segment,
    /// Tick at which it came.
    pub now: u32,
    /// The same in nanoseconds of the coarse clock.
    pub now_ns: u64,
    /// The entry of the packet's 5-tuple: a copy, or the one to be recorded.
    pub entry: FlowEntry<A>,
    /// What it has in common with the other fragments of its datagram.
    pub fragment: FragmentKey<A>,
    /// The packet's 5-tuple.
    pub key: FlowKey<A>,
    /// A [`Next`](switcher_common::flow::Next) as its number, while it is to be carried out.
    pub next: u32,
    /// Key of the other direction's entry.
    pub peer_key: FlowKey<A>,
    /// The other direction's entry, while one is being made, or its numbers.
    pub peer: FlowEntry<A>,
    /// For how long the packet's direction was silent before it, in ticks.
    pub silent: u32,
    /// Its entry as it was, while the flow goes elsewhere.
    pub before: FlowEntry<A>,
    /// What may become of the client's entry by a second chance: translation, backend and color.
    pub other: FlowEntry<A>,
    /// The key of the replies that would come then.
    pub other_peer_key: FlowKey<A>,
    /// The packet's 5-tuple after translation.
    pub to: FlowKey<A>,
    /// What the routing tables are asked, and what they answered.
    pub fib: FibLookup,
    /// The epoch of hops before that was asked for.
    pub hop_epoch: u32,
}

#[btf_map]
static WORK4: PerCpuArray<Work<Ipv4>, 1> = PerCpuArray::new();
#[btf_map]
static WORK6: PerCpuArray<Work<Ipv6>, 1> = PerCpuArray::new();

/// An address family's working memory.
pub(crate) trait HasWork: Address {
    /// This CPU's. Each stage asks anew; two borrows are never used in turns.
    fn work() -> Option<&'static mut Work<Self>>;
}

impl HasWork for Ipv4 {
    #[inline(always)]
    fn work() -> Option<&'static mut Work<Self>> {
        // SAFETY: this CPU's own; a stage that another one calls ends before its caller goes on.
        WORK4.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }
}

impl HasWork for Ipv6 {
    #[inline(always)]
    fn work() -> Option<&'static mut Work<Self>> {
        // SAFETY: as above.
        WORK6.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }
}

impl<A: Address> Work<A> {
    /// Takes a copy of the packet's entry.
    ///
    /// # Safety
    /// As of [`copy_words`], whose word is asserted here for the copy.
    #[inline(always)]
    pub(crate) unsafe fn take_entry(&mut self, entry: *const FlowEntry<A>) {
        const { assert!(offset_of!(Self, entry).is_multiple_of(size_of::<u64>())) };
        // SAFETY: as the caller promises.
        unsafe { copy_words(&raw mut self.entry, entry) };
    }

    /// How far the other direction has come, as another stage has just written it: volatile, since the
    /// compiler does not know of that.
    #[inline(always)]
    pub(crate) fn peer_progress(&self) -> Progress {
        let peer = &raw const self.peer;
        // SAFETY: fields of a valid reference.
        unsafe {
            Progress {
                next_seq: (&raw const (*peer).next_seq).read_volatile(),
                acked: (&raw const (*peer).acked).read_volatile(),
                fin_end: (&raw const (*peer).fin_end).read_volatile(),
            }
        }
    }

    /// Leaves a backend that may take the flow of the 5-tuple `client`, which another stage is to look at.
    #[inline(always)]
    pub(crate) fn set_other(&mut self, client: &FlowKey<A>, other: &FlowEntry<A>) {
        let peer_key = client.peer(other);
        let own = &raw mut self.other;
        // SAFETY: fields, and of an entry only those that count; volatile as below.
        unsafe {
            (&raw mut (*own).rewrite_addr).write_volatile(other.rewrite_addr);
            (&raw mut (*own).rewrite_port_be).write_volatile(other.rewrite_port_be);
            (&raw mut (*own).backend).write_volatile(other.backend);
            (&raw mut (*own).color).write_volatile(other.color);
            (&raw mut self.other_peer_key).write_volatile(peer_key);
        }
    }

    /// Gives the entry that is to be recorded another backend. Volatile, as below.
    #[inline(always)]
    pub(crate) fn set_backend(&mut self, id: u32) {
        // SAFETY: a field.
        unsafe { (&raw mut self.entry.backend).write_volatile(id) };
    }

    /// Derives the other direction's key from the entry.
    #[inline(always)]
    pub(crate) fn set_peer_key(&mut self) {
        let peer_key = self.key.peer(&self.entry);
        // SAFETY: a field. Volatile: another stage reads it, which the compiler does not know of a
        // reference that only this one has.
        unsafe { (&raw mut self.peer_key).write_volatile(peer_key) };
    }
}
