//! Runs iterator programs over maps; aya's iterators take none.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::{bpf_attach_type::BPF_TRACE_ITER, bpf_cmd};

use super::raw::{descriptor, zeroed};

/// Runs an iterator program that writes nothing over all elements of `map`. It may end a read of the iterator, and
/// begins the next one with the same element.
pub fn iterate(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    // union bpf_iter_link_info { struct { __u32 map_fd; } map; .. }, 16 bytes; aya-obj lacks it.
    let info: [u32; 4] = [map.as_raw_fd().unsigned_abs(), 0, 0, 0];
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().unsigned_abs();
    attr.link_create.attach_type = BPF_TRACE_ITER as u32;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = info.as_ptr() as u64;
    attr.link_create
        .__bindgen_anon_3
        .__bindgen_anon_1
        .iter_info_len = 16;
    let link = descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    let mut attr = zeroed();
    attr.iter_create.link_fd = link.as_raw_fd().unsigned_abs();
    let mut iterator = File::from(descriptor(bpf_cmd::BPF_ITER_CREATE, &mut attr)?);
    loop {
        match iterator.read(&mut [0; 8]) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(io::Error::other("the iterator's program wrote something")),
            // The program has ended the read.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}
