//! The frame that the program runs on: every bounds check of the data path is here.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use switcher_common::packet::{Frame, Header};

/// No header that is read begins further in; the verifier asks for a bound.
const OFFSET_MASK: usize = 0x1ff;

/// The same for the rest of a frame that was not merged.
const ANYWHERE_MASK: usize = 0x3fff;

/// The frame behind an XDP context.
pub(crate) struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    /// The frame of `ctx`.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// The raw context, for helpers.
    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut xdp_md {
        self.ctx.as_ptr().cast()
    }

    /// Interface that the frame came in by.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.ctx.ctx).ingress_ifindex }
    }

    /// Cuts the frame to its first `len` bytes; `false` when it is shorter already.
    #[inline(always)]
    pub(crate) fn cut_to(&mut self, len: usize) -> bool {
        let present = Frame::len(self);
        // Read back from memory: the verifier knows no difference of 32-bit pointers.
        // SAFETY: a local variable.
        let present = unsafe { (&raw const present).read_volatile() };
        let surplus = present.checked_sub(len).map(i32::try_from);
        let Some(Ok(surplus)) = surplus else {
            return false;
        };
        // SAFETY: the context is valid; no reference into the frame outlives this exclusive borrow.
        unsafe { bpf_xdp_adjust_tail(self.raw(), -surplus) == 0 }
    }

    /// Puts `len` bytes, at most a few headers, before the frame; `false` when there is no room.
    #[inline(always)]
    pub(crate) fn grow_front(&mut self, len: usize) -> bool {
        let Ok(len) = i32::try_from(len) else {
            return false;
        };
        // SAFETY: as in `cut_to`.
        unsafe { bpf_xdp_adjust_head(self.raw(), -len) == 0 }
    }

    /// As `header`, wherever in the frame.
    #[inline(always)]
    pub(crate) fn anywhere<T: Header>(&self, offset: usize) -> Option<&T> {
        let start = self.ctx.data() + (offset & ANYWHERE_MASK);
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: as in [`Frame::header`].
        Some(unsafe { &*(start as *const T) })
    }

    #[inline(always)]
    fn checked<T: Header>(&self, offset: usize) -> Option<*mut T> {
        let start = self.ctx.data() + (offset & OFFSET_MASK);
        // The verifier accepts an access only after exactly this comparison.
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        // SAFETY: checked to lie within the frame; a `Header` may be any bytes at any address.
        self.checked(offset).map(|header| unsafe { &*header })
    }

    #[inline(always)]
    fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as above; the borrow of the frame is exclusive.
        self.checked(offset).map(|header| unsafe { &mut *header })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.ctx.data_end() - self.ctx.data()
    }
}
