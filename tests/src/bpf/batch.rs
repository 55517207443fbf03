//! Many elements by one call; aya has no batches.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// `batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Batch {
    /// Input and output of a lookup.
    unused: [u64; 2],
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes `values` to the elements of `keys`.
///
/// # Panics
/// When there is not a value for each key.
pub fn update_batch<K: Copy, V: Copy>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    let attr = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        // Descriptors that exist are not negative.
        map_fd: map.as_raw_fd().unsigned_abs(),
        ..Batch::default()
    };
    // SAFETY: the attribute is a whole `batch`, and the slices live until the call has returned.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_BATCH,
            &raw const attr,
            size_of::<Batch>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
