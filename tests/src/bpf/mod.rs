//! What tests ask of the kernel's BPF side themselves: where a process is in its bpf(2) calls, what
//! its maps weigh, and filling a map with a million elements.

mod batch;
mod calls;
mod held;
mod iterate;
mod link;
mod raw;
mod usage;

pub use self::batch::update_batch;
pub use self::calls::between_bpf_calls;
pub use self::held::{Held, HeldRun, LetGo};
pub use self::iterate::iterate;
pub use self::link::{LinkIds, pinned_link};
pub use self::usage::{Usage, usage};
