//! What tests ask of the kernel's BPF side themselves: where a process is in its bpf(2) calls, what
//! its maps weigh, and filling a map with a million elements.

mod batch;
mod calls;
mod usage;

pub use self::batch::update_batch;
pub use self::calls::between_bpf_calls;
pub use self::usage::{Usage, usage};
