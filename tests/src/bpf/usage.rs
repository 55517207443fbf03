//! What a process holds: descriptors, and the memory of its maps.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What a process holds at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors.
    pub descriptors: usize,
    /// Bytes that the kernel accounts to each map that the process has open, by the map's id.
    pub maps: BTreeMap<u32, u64>,
}

impl Usage {
    /// Bytes of all maps together.
    #[must_use]
    pub fn map_bytes(&self) -> u64 {
        self.maps.values().sum()
    }
}

/// What the process `id` holds.
pub fn usage(id: u32) -> Result<Usage> {
    let dir = Path::new("/proc").join(id.to_string()).join("fdinfo");
    let mut usage = Usage::default();
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        usage.descriptors += 1;
        // A descriptor that has been closed meanwhile has no text any more.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            let (_, value) = lines.find(|(key, _)| *key == name)?;
            value.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id"), field("memlock")) {
            usage.maps.insert(u32::try_from(id)?, bytes);
        }
    }
    Ok(usage)
}
