//! What is looked up by an address: in two editions, so that it changes with the listeners.

use std::collections::BTreeMap;

use switcher_common::service::{
    EDITION_SECOND, Edition, EndpointEditions, EndpointRecord, ListenerKey, ListenerRecord,
    NO_LISTENER, VipMarks,
};

use super::Image;

/// VIPs and endpoints, as the maps hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Addresses {
    /// By [`ListenerKey::any_of`].
    pub(in super::super) vips: BTreeMap<ListenerKey, VipMarks>,
    /// By address and port, as if they were a listener's.
    pub(in super::super) endpoints: BTreeMap<ListenerKey, EndpointEditions>,
}

/// VIPs and endpoints that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::zero_sized_map_values,
    reason = "a form for both, so that one code edits both"
)]
pub(super) struct WantedAddresses {
    pub(super) vips: BTreeMap<ListenerKey, ()>,
    pub(super) endpoints: BTreeMap<ListenerKey, EndpointRecord>,
}

/// What the maps are to hold.
pub(super) struct Edited {
    /// Says which edition counts.
    pub(super) record: ListenerRecord,
    /// What stays.
    pub(super) addresses: Addresses,
    /// What is to go, and counts until the edition changes.
    pub(super) retiring: Addresses,
}

/// A value in two editions.
trait Editions: Copy + Default {
    type Value: Copy + PartialEq;
    fn value(&self, edition: Edition) -> Option<Self::Value>;
    fn with_value(self, edition: Edition, value: Option<Self::Value>) -> Self;
}

impl Editions for VipMarks {
    type Value = ();
    fn value(&self, edition: Edition) -> Option<()> {
        self.is_vip(edition).then_some(())
    }
    fn with_value(self, edition: Edition, value: Option<()>) -> Self {
        self.with(edition, value.is_some())
    }
}

impl Editions for EndpointEditions {
    type Value = EndpointRecord;
    fn value(&self, edition: Edition) -> Option<EndpointRecord> {
        self.any(edition).copied()
    }
    fn with_value(self, edition: Edition, value: Option<EndpointRecord>) -> Self {
        self.with(edition, value)
    }
}

/// The edition that counts in `image`.
fn current(image: &Image) -> Edition {
    let record = image.records.get(NO_LISTENER as usize);
    record.map_or(Edition::First, ListenerRecord::edition)
}

/// What counts in `image` of endpoints.
pub(super) fn endpoints(image: &Image) -> impl Iterator<Item = (&ListenerKey, &EndpointRecord)> {
    let edition = current(image);
    let endpoints = image.addresses.endpoints.iter();
    endpoints.filter_map(move |(key, editions)| Some((key, editions.any(edition)?)))
}

/// Makes what is wanted the other edition, unless the one that counts says the same.
pub(super) fn edit(old: &Image, wanted: &WantedAddresses) -> Edited {
    let before = current(old);
    let old = &old.addresses;
    let is_same =
        says(&old.vips, before, &wanted.vips) && says(&old.endpoints, before, &wanted.endpoints);
    let edition = if is_same || cfg!(mutant = "apply-in-place") {
        before
    } else {
        before.other()
    };
    let (vips, old_vips) = edited(&old.vips, edition, &wanted.vips);
    let (endpoints, old_endpoints) = edited(&old.endpoints, edition, &wanted.endpoints);
    Edited {
        record: ListenerRecord {
            flags: match edition {
                Edition::First => 0,
                Edition::Second => EDITION_SECOND,
            },
            ..ListenerRecord::default()
        },
        addresses: Addresses { vips, endpoints },
        retiring: Addresses {
            vips: old_vips,
            endpoints: old_endpoints,
        },
    }
}

/// Whether `edition` of `all` is `wanted`.
fn says<E: Editions>(
    all: &BTreeMap<ListenerKey, E>,
    edition: Edition,
    wanted: &BTreeMap<ListenerKey, E::Value>,
) -> bool {
    let visible = all
        .iter()
        .filter_map(|(key, editions)| Some((*key, editions.value(edition)?)));
    visible.eq(wanted.iter().map(|(key, value)| (*key, *value)))
}

/// With `edition` as `wanted`: the elements that are in it, and those that are not.
fn edited<E: Editions>(
    old: &BTreeMap<ListenerKey, E>,
    edition: Edition,
    wanted: &BTreeMap<ListenerKey, E::Value>,
) -> (BTreeMap<ListenerKey, E>, BTreeMap<ListenerKey, E>) {
    let stays = wanted.iter().map(|(key, value)| {
        let known = old.get(key).copied().unwrap_or_default();
        (*key, known.with_value(edition, Some(*value)))
    });
    let goes = old.iter().filter(|(key, _)| !wanted.contains_key(key));
    let goes = goes.map(|(key, editions)| (*key, editions.with_value(edition, None)));
    (stays.collect(), goes.collect())
}
