#![no_std]
//! What the XDP program and userspace agree on.
