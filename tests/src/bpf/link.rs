//! Which link is pinned, and what it carries.

use std::{
    ffi::CString,
    mem,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya_obj::generated::{bpf_cmd, bpf_link_info};

use super::raw::{bpf, descriptor, zeroed};

/// A link, as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkIds {
    /// The link.
    pub link: u32,
    /// Its program.
    pub program: u32,
}

/// The link that is pinned at `path`.
pub fn pinned_link(path: &Path) -> Result<LinkIds> {
    let what = || format!("asking for the link {}", path.display());
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    let link = descriptor(bpf_cmd::BPF_OBJ_GET, &mut attr).with_context(what)?;
    // SAFETY: plain integers.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = link.as_raw_fd().unsigned_abs();
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>())?;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).with_context(what)?;
    Ok(LinkIds {
        link: info.id,
        program: info.prog_id,
    })
}
