//! Properties of the packet logic, over random packets: etherparse builds them and computes their
//! checksums in full. Seeds are fixed, so that a run says the same everywhere; more cases are had
//! with `PROPTEST_CASES`, other ones with `PROPTEST_RNG_SEED`.

mod advance;
mod bytes;
mod extension;
mod fragment;
mod icmp;
mod message;
mod own_error;
mod parse;
mod rewrite;
mod shape;
