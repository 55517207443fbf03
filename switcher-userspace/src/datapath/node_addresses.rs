//! What the program is told of the node's own addresses.

use std::{collections::BTreeSet, net::IpAddr};

use aya::maps::{HashMap, MapData};
use switcher_common::{address::WideAddress, service::ListenerKey};

use super::{
    error::{Attempt as _, DataPathError},
    pins::PinDir,
};

const NAME: &str = "NODE_ADDRESSES";

/// Addresses that the program can be told of.
pub(super) const MOST: u32 = 4_096;

/// The map of addresses, and what it holds.
pub(super) struct NodeAddresses {
    map: HashMap<MapData, ListenerKey, u32>,
    written: BTreeSet<ListenerKey>,
}

impl NodeAddresses {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        let map: HashMap<MapData, ListenerKey, u32> = pins.open(NAME)?;
        let written = map.keys().collect::<Result<_, _>>();
        let written = written.attempt(format!("reading the map {NAME}"))?;
        Ok(Self { map, written })
    }

    /// Makes the map hold `addresses` and no others. Returns how many it has no room for.
    pub(super) fn set(
        &mut self,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Result<usize, DataPathError> {
        let mut wanted: BTreeSet<ListenerKey> = addresses.map(key).collect();
        let beyond = wanted.len().saturating_sub(MOST as usize);
        for _ in 0..beyond {
            wanted.pop_last();
        }
        let gone: Vec<ListenerKey> = self.written.difference(&wanted).copied().collect();
        for key in gone {
            self.map
                .remove(&key)
                .attempt(format!("removing an address from the map {NAME}"))?;
            self.written.remove(&key);
        }
        let new: Vec<ListenerKey> = wanted.difference(&self.written).copied().collect();
        for key in new {
            self.map
                .insert(key, 1, 0)
                .attempt(format!("writing an address into the map {NAME}"))?;
            self.written.insert(key);
        }
        Ok(beyond)
    }
}

fn key(address: IpAddr) -> ListenerKey {
    let wide = WideAddress::from_ip(address);
    ListenerKey::any_of(wide, wide.af())
}
