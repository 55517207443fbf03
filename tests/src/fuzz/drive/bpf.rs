//! The map calls that the driver makes for every packet, without the allocations of a general library.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use bytemuck::Pod;

/// Commands of bpf(2) (`linux/bpf.h`).
const LOOKUP_ELEM: libc::c_long = 1;
const UPDATE_ELEM: libc::c_long = 2;
const DELETE_ELEM: libc::c_long = 3;
const LOOKUP_BATCH: libc::c_long = 24;
const LOOKUP_AND_DELETE_BATCH: libc::c_long = 25;
const UPDATE_BATCH: libc::c_long = 26;

/// Elements of one batch of a hash table; the kernel asks for room for a whole bucket.
const BATCH: u32 = 4_096;

/// `union bpf_attr` of the element calls.
#[repr(C)]
struct ElementCall {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of the batch calls.
#[repr(C)]
struct BatchCall {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// An opened map.
#[derive(Debug)]
pub(super) struct RawMap {
    data: MapData,
    name: &'static str,
}

impl RawMap {
    /// Opens the map `name` pinned in `dir`, whose keys and values have these sizes in bytes.
    pub(super) fn open(dir: &Path, name: &'static str, sizes: (usize, usize)) -> Result<Self> {
        let data = MapData::from_pin(dir.join(name))
            .with_context(|| format!("opening the pinned map {name}"))?;
        let info = data.info()?;
        let found = (info.key_size() as usize, info.value_size() as usize);
        ensure!(
            found == sizes,
            "the map {name} has keys and values of {found:?} bytes, expected {sizes:?}"
        );
        Ok(Self { data, name })
    }

    /// The map's id.
    pub(super) fn id(&self) -> Result<u32> {
        Ok(self.data.info()?.id())
    }

    /// Its number of elements.
    pub(super) fn len(&self) -> Result<u32> {
        Ok(self.data.info()?.max_entries())
    }

    fn fd(&self) -> u32 {
        self.data.fd().as_fd().as_raw_fd().unsigned_abs()
    }

    fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
        // SAFETY: the attributes are initialised structs of the layout that the command has, and
        // what they point to lives until the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                std::ptr::from_mut(attr),
                size_of::<T>(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn element<K: Pod>(&self, key: &K, value: u64) -> ElementCall {
        ElementCall {
            map_fd: self.fd(),
            padding: 0,
            key: std::ptr::from_ref(key) as u64,
            value,
            flags: 0,
        }
    }

    /// The value of a key.
    pub(super) fn get<K: Pod, V: Pod>(&self, key: &K) -> Result<Option<V>> {
        let mut value = V::zeroed();
        let mut attr = self.element(key, std::ptr::from_mut(&mut value) as u64);
        match Self::call(LOOKUP_ELEM, &mut attr) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("looking into {}", self.name)),
        }
    }

    /// Writes a value.
    pub(super) fn set<K: Pod, V: Pod>(&self, key: &K, value: &V) -> Result<()> {
        let mut attr = self.element(key, std::ptr::from_ref(value) as u64);
        Self::call(UPDATE_ELEM, &mut attr).with_context(|| format!("writing to {}", self.name))
    }

    /// Removes a key, if it is there.
    pub(super) fn remove<K: Pod>(&self, key: &K) -> Result<()> {
        let mut attr = self.element(key, 0);
        match Self::call(DELETE_ELEM, &mut attr) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(error).with_context(|| format!("removing from {}", self.name))
            }
            _ => Ok(()),
        }
    }

    /// The first `len` elements of an array, into `values`, of which each CPU has its own if it is
    /// a per-CPU one.
    pub(super) fn read_array<V: Pod>(&self, len: u32, values: &mut [V]) -> Result<()> {
        let mut keys = vec![0_u32; len as usize];
        let mut next = 0_u32;
        let mut attr = BatchCall {
            in_batch: 0,
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: len,
            map_fd: self.fd(),
            element_flags: 0,
            flags: 0,
        };
        match Self::call(LOOKUP_BATCH, &mut attr) {
            // ENOENT: that was the end of the map.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(error).with_context(|| format!("reading {}", self.name))
            }
            _ => Ok(()),
        }
    }

    /// Writes elements of an array, of which each CPU has its own if it is a per-CPU one.
    pub(super) fn write_array<V: Pod>(&self, numbers: &[u32], values: &[V]) -> Result<()> {
        let mut attr = BatchCall {
            in_batch: 0,
            out_batch: 0,
            keys: numbers.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(numbers.len())?,
            map_fd: self.fd(),
            element_flags: 0,
            flags: 0,
        };
        Self::call(UPDATE_BATCH, &mut attr).with_context(|| format!("writing {}", self.name))
    }

    /// Takes everything out of a hash table.
    pub(super) fn drain<K: Pod, V: Pod>(&self) -> Result<Vec<(K, V)>> {
        self.all(LOOKUP_AND_DELETE_BATCH)
    }

    /// Everything in a hash table.
    pub(super) fn read<K: Pod, V: Pod>(&self) -> Result<Vec<(K, V)>> {
        self.all(LOOKUP_BATCH)
    }

    fn all<K: Pod, V: Pod>(&self, command: libc::c_long) -> Result<Vec<(K, V)>> {
        let mut found = Vec::new();
        let mut keys = vec![K::zeroed(); BATCH as usize];
        let mut values = vec![V::zeroed(); BATCH as usize];
        // The place to go on at; its size is that of a bucket's number.
        let mut place = [0_u64; 8];
        let mut is_first = true;
        loop {
            let place_at = place.as_mut_ptr() as u64;
            let mut attr = BatchCall {
                in_batch: if is_first { 0 } else { place_at },
                out_batch: place_at,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: BATCH,
                map_fd: self.fd(),
                element_flags: 0,
                flags: 0,
            };
            is_first = false;
            let is_end = match Self::call(command, &mut attr) {
                Ok(()) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) => {
                    return Err(error).with_context(|| format!("reading all of {}", self.name));
                }
            };
            let count = attr.count as usize;
            found.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
            if is_end {
                return Ok(found);
            }
        }
    }
}
