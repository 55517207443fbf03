//! The bpf(2) calls that aya 0.14 lacks: batches, map iterators, link information. All `unsafe` of
//! the crate's kernel boundary is here.

use std::{
    io::{self, Read as _},
    mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type::BPF_TRACE_ITER, bpf_attr, bpf_cmd, bpf_link_info};
use bytemuck::Pod;

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is a valid, fully initialised attribute of the size that is passed; the callers
    // below keep everything alive that it points to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain integers; the kernel asks for zeros in unused bytes.
    unsafe { mem::zeroed() }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // File descriptors that exist are not negative.
    fd.as_raw_fd().unsigned_abs()
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Size of a type as the kernel takes it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "no type here comes near 4 GiB"
)]
pub(super) const fn size_u32<T>() -> u32 {
    size_of::<T>() as u32
}

/// Most elements that one call writes: bounds what the kernel allocates, and costs nothing.
const BATCH: usize = 65_536;

/// Writes `values` to the elements of `keys`.
pub(super) fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
        let mut attr = batch_attr(map, keys.len())?;
        attr.batch.keys = keys.as_ptr() as u64;
        attr.batch.values = values.as_ptr() as u64;
        bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr)?;
    }
    Ok(())
}

/// Removes the elements of `keys`, which must all be there.
pub(super) fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    for keys in keys.chunks(BATCH) {
        let mut attr = batch_attr(map, keys.len())?;
        attr.batch.keys = keys.as_ptr() as u64;
        bpf(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr)?;
    }
    Ok(())
}

/// Reads up to `most` elements, in one call: of an array the first, of a hash map any.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    most: u32,
) -> io::Result<(Vec<K>, Vec<V>)> {
    let mut keys = vec![K::zeroed(); most as usize];
    let mut values = vec![V::zeroed(); most as usize];
    if most == 0 {
        return Ok((keys, values));
    }
    let mut next = 0_u32;
    let mut attr = batch_attr(map, keys.len())?;
    attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
        // ENOENT says that the map's end was reached; the elements are there.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
        _ => {}
    }
    // SAFETY: the call has written it; any bytes are a valid integer.
    let count = unsafe { attr.batch.count } as usize;
    keys.truncate(count);
    values.truncate(count);
    Ok((keys, values))
}

/// A walk over a hash map, many elements at a time: memory for those only, whatever the map's size.
///
/// The kernel holds a bucket's lock while it copies that bucket, and none between; what is inserted or
/// removed meanwhile may be missed.
pub(super) struct Elements<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// Where the next batch begins; `None`: at the start.
    at: Option<u32>,
    is_over: bool,
}

impl<K: Pod, V: Pod> Elements<K, V> {
    const AT_ONCE: usize = 1_024;
    /// Batches in a row that the kernel may give up because a bucket is locked.
    const TRIES: u32 = 1_000;

    /// A walk from the start.
    pub(super) fn new() -> Self {
        Self {
            keys: vec![K::zeroed(); Self::AT_ONCE],
            values: vec![V::zeroed(); Self::AT_ONCE],
            at: None,
            is_over: false,
        }
    }

    /// The next elements; `None` behind the last ones.
    pub(super) fn next(&mut self, map: BorrowedFd<'_>) -> io::Result<Option<(&[K], &[V])>> {
        let mut tries = 0;
        while !self.is_over {
            let (mut from, mut next) = (self.at.unwrap_or_default(), 0_u32);
            let mut attr = batch_attr(map, self.keys.len())?;
            if self.at.is_some() {
                attr.batch.in_batch = std::ptr::from_mut(&mut from) as u64;
            }
            attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
            attr.batch.keys = self.keys.as_mut_ptr() as u64;
            attr.batch.values = self.values.as_mut_ptr() as u64;
            if let Err(error) = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
                match error.raw_os_error() {
                    // The end was reached; the elements are there.
                    Some(libc::ENOENT) => self.is_over = true,
                    // A bucket has more elements than fit.
                    Some(libc::ENOSPC) if self.keys.len() < BATCH => {
                        let more = self.keys.len() * 2;
                        self.keys.resize(more, K::zeroed());
                        self.values.resize(more, V::zeroed());
                        continue;
                    }
                    Some(libc::EBUSY | libc::EAGAIN) if tries < Self::TRIES => {
                        tries += 1;
                    }
                    _ => return Err(error),
                }
            }
            self.at = Some(next);
            // SAFETY: the call has written it; any bytes are a valid integer.
            let count = unsafe { attr.batch.count } as usize;
            if count > 0 {
                return Ok(Some((&self.keys[..count], &self.values[..count])));
            }
        }
        Ok(None)
    }
}

fn batch_attr(map: BorrowedFd<'_>, count: usize) -> io::Result<bpf_attr> {
    let mut attr = zeroed_attr();
    attr.batch.count = u32::try_from(count).map_err(io::Error::other)?;
    attr.batch.map_fd = raw(map);
    Ok(attr)
}

/// Records of an iterator that are read at once: as many as the kernel's buffer holds, with pages of 4 KiB and
/// records of 80 bytes, and more than a scan lets it hold ([`ScanTotals::most_records`]).
///
/// [`ScanTotals::most_records`]: switcher_common::scan::ScanTotals::most_records
pub(super) const RECORDS_AT_ONCE: usize = 1_024;

/// Runs an iterator program over all elements of a map, and hands on the records of each read, which may be none.
pub(super) fn iterate<R: Pod>(
    program: BorrowedFd<'_>,
    map: BorrowedFd<'_>,
    on_read: impl FnMut(&[R]) -> io::Result<()>,
) -> io::Result<()> {
    let link = iterator_link(program, map)?;
    let mut attr = zeroed_attr();
    attr.iter_create.link_fd = raw(link.as_fd());
    let iterator = owned(bpf(bpf_cmd::BPF_ITER_CREATE, &mut attr)?)?;
    run_to_end(std::fs::File::from(iterator), on_read)
}

fn iterator_link(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // union bpf_iter_link_info { struct { __u32 map_fd; } map; .. }, 16 bytes; aya-obj lacks it.
    let info: [u32; 4] = [raw(map), 0, 0, 0];
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.attach_type = BPF_TRACE_ITER as u32;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = info.as_ptr() as u64;
    attr.link_create
        .__bindgen_anon_3
        .__bindgen_anon_1
        .iter_info_len = size_u32::<[u32; 4]>();
    owned(bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?)
}

/// Each read runs the iterator on, until it ends the read or the map ends. The kernel answers EAGAIN when there
/// was nothing to tell.
fn run_to_end<R: Pod>(
    mut iterator: std::fs::File,
    mut on_read: impl FnMut(&[R]) -> io::Result<()>,
) -> io::Result<()> {
    let size = size_of::<R>();
    let mut records = vec![R::zeroed(); RECORDS_AT_ONCE];
    loop {
        let read = match iterator.read(bytemuck::cast_slice_mut(&mut records)) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => 0,
            Err(error) => return Err(error),
        };
        if !read.is_multiple_of(size) {
            return Err(io::Error::other(format!(
                "a read of an iterator gave {read} bytes, records of {size} bytes were expected"
            )));
        }
        on_read(&records[..read / size])?;
    }
}

/// Runs an XDP program once on `frame`, with `context` if there is one; writes what becomes of the
/// frame to `out`. Returns the program's verdict and the frame's length.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: Option<&[u8]>,
    out: &mut [u8],
) -> io::Result<(u32, usize)> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    let mut attr = zeroed_attr();
    attr.test.prog_fd = raw(program);
    attr.test.data_in = frame.as_ptr() as u64;
    attr.test.data_size_in = size(frame)?;
    attr.test.data_out = out.as_mut_ptr() as u64;
    attr.test.data_size_out = size(out)?;
    attr.test.repeat = 1;
    if let Some(context) = context {
        attr.test.ctx_in = context.as_ptr() as u64;
        attr.test.ctx_size_in = size(context)?;
    }
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the call has written both; any bytes are valid integers.
    Ok(unsafe { (attr.test.retval, attr.test.data_size_out as usize) })
}

/// What an XDP link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct XdpLinkInfo {
    /// Id of its program.
    pub(super) program_id: u32,
    /// Its interface; 0 when that is gone.
    pub(super) ifindex: u32,
}

/// Asks the kernel about an XDP link.
pub(super) fn xdp_link_info(link: BorrowedFd<'_>) -> io::Result<XdpLinkInfo> {
    // SAFETY: plain integers.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = raw(link);
    attr.info.info_len = size_u32::<bpf_link_info>();
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(XdpLinkInfo {
        program_id: info.prog_id,
        // SAFETY: the callers pass XDP links; any bytes are a valid integer.
        ifindex: unsafe { info.__bindgen_anon_1.xdp.ifindex },
    })
}

/// Takes a link off what it is attached to.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Opens a pinned link.
pub(super) fn open_pinned(path: &std::path::Path) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    owned(bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?)
}

/// Index of the interface `name`; `None` when there is none.
pub(super) fn ifindex(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a valid C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// Takes an exclusive lock that ends with the process. `false`: somebody else has it.
pub(super) fn lock_exclusively(file: &std::fs::File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}
