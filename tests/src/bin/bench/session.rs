//! The share of the processors that this session gets beside others.

use std::{
    fs,
    sync::atomic::{AtomicI32, Ordering},
};

/// The kernel shares processors by session (`sched_autogroup`) before it looks at anything else.
const FILE: &str = "/proc/self/autogroup";
/// As nice(1) has it.
const FIRST: i32 = -10;
/// What it was, while it is [`FIRST`].
static BEFORE: AtomicI32 = AtomicI32::new(NOTHING);
const NOTHING: i32 = i32::MAX;

/// While it is there, this session runs before others, so that who else uses the machine shows less in what is measured.
/// All programs of a measurement are of this session, and share as they do otherwise.
pub(crate) struct First;

impl First {
    /// From now on. Where the kernel does not share by session, it changes nothing.
    pub(crate) fn begin() -> Self {
        if let Some(before) = nice() {
            BEFORE.store(before, Ordering::SeqCst);
            // SAFETY: registers a function that may be called at any exit. A signal ends this process by one.
            unsafe { libc::atexit(restore) };
            set(FIRST);
        }
        Self
    }
}

impl Drop for First {
    fn drop(&mut self) {
        restore();
    }
}

extern "C" fn restore() {
    let before = BEFORE.swap(NOTHING, Ordering::SeqCst);
    if before != NOTHING {
        set(before);
    }
}

/// Of this session: the file says `/autogroup-NUMBER nice VALUE`.
fn nice() -> Option<i32> {
    let text = fs::read_to_string(FILE).ok()?;
    let (_, nice) = text.trim().rsplit_once(" nice ")?;
    nice.parse().ok()
}

fn set(nice: i32) {
    // Nothing depends on it but how much others disturb.
    let _ = fs::write(FILE, nice.to_string());
}
