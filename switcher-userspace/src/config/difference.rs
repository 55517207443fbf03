//! What an apply changes: the difference of two configurations.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, Protocol};

use super::{BackendConfig, Config, IdleTimeouts, ListenerConfig, ServiceConfig};
use crate::switching::AtDeadline;

/// All that differs between two configurations, but for what cannot change while the data path is
/// loaded ([`super::fixed`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// `limits.inserts_per_second` of `[agent]`, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inserts_per_second: Option<Changed<u32>>,
    /// The hooks, where they differ: all of them, as the configuration has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Changed<Vec<String>>>,
    /// The services that differ: first in the order of the new configuration, then those removed.
    pub services: Vec<ServiceDifference>,
}

/// A value that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed<T> {
    /// As it was.
    pub from: T,
    /// As it is to be.
    pub to: T,
}

/// How a part differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It was not there.
    Added,
    /// It is there no more.
    Removed,
    /// It is there still, with other values or parts.
    Changed,
}

/// A service in [`Difference`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceDifference {
    /// Its name.
    pub name: String,
    /// How it differs. Flows of a removed one run on.
    pub change: Kind,
    /// Its own values that differ; none of one that was added or removed.
    #[serde(default, skip_serializing_if = "ServiceOptions::is_empty")]
    pub options: ServiceOptions,
    /// Its listeners that differ: all of one that was added or removed.
    pub listeners: Vec<ListenerDifference>,
}

/// A listener in [`ServiceDifference`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerDifference {
    /// Its name.
    pub name: String,
    /// How it differs. Flows of a removed one run on, also those of the place that it had before.
    pub change: Kind,
    /// Where it listens; of a removed one, where it did.
    #[serde(flatten)]
    pub place: Place,
    /// Where it listened before, if that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Place>,
    /// Its backends that differ: all of one that was added or removed.
    pub backends: Vec<BackendDifference>,
}

/// Where a listener listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// The virtual address.
    pub vip: IpAddr,
    /// The virtual port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Always selects the standby.
    pub preview: bool,
}

/// A backend in [`ListenerDifference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendDifference {
    /// The color that it serves.
    pub color: Color,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// How it differs. Flows of a removed one run on.
    pub change: Kind,
    /// Its weight; of a removed one, as it was.
    pub weight: u16,
    /// Its weight before, if that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_before: Option<u16>,
}

/// Defines [`ServiceOptions`]: each field with its name, the type that it is told as, and where it is.
macro_rules! service_options {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $value:expr;)*) => {
        /// Values of a service that differ; durations in milliseconds. Absent: as it was.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub struct ServiceOptions {
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<Changed<$type>>,
            )*
        }

        impl ServiceOptions {
            fn between(old: &ServiceConfig, new: &ServiceConfig) -> Self {
                is_told(new);
                Self {
                    $($field: {
                        let value: fn(&ServiceConfig) -> $type = $value;
                        changed(value(old), value(new))
                    },)*
                }
            }

            /// Whether nothing differs.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                *self == Self::default()
            }
        }
    };
}

service_options! {
    /// Active color where no state exists.
    initial_active: Color = |it| it.initial_active;
    /// Eligible backends that a flip needs.
    min_healthy: u32 = |it| it.min_healthy;
    /// Longest drain.
    drain_timeout_ms: u64 = |it| it.drain_timeout.as_millis();
    /// What happens then to the flows that are left.
    at_deadline: AtDeadline = |it| it.at_deadline;
    /// Silence after which a UDP flow counts as finished during a drain.
    drain_udp_idle_ms: u64 = |it| it.drain_udp_idle.as_millis();
    /// Silence after which a flow is forgotten whose backend has not answered.
    idle_unanswered_ms: u64 = |it| it.idle.unanswered.as_millis();
    /// The same of an established TCP flow.
    idle_established_ms: u64 = |it| it.idle.established.as_millis();
    /// The same of a TCP flow that is closing.
    idle_closing_ms: u64 = |it| it.idle.closing.as_millis();
    /// The same of a UDP flow whose backend has answered.
    idle_udp_ms: u64 = |it| it.idle.udp.as_millis();
    /// Whether a connection that its backend refuses or leaves unanswered goes to another one.
    second_chance: bool = |it| it.second_chance;
    /// Whether backends are asked whether they can serve, and how: as the configuration has it, `null` where they
    /// are not asked.
    check: Option<String> = |it| it.check.as_ref().map(ToString::to_string);
    /// Whether and when the active color is changed by itself: as the configuration has it, `null` where it is
    /// not.
    failover: Option<String> = |it| it.failover.as_ref().map(ToString::to_string);
}

/// Does nothing: a new field of the configuration must be told above, or named here as a part.
const fn is_told(service: &ServiceConfig) {
    let ServiceConfig {
        name: _,
        initial_active: _,
        min_healthy: _,
        drain_timeout: _,
        at_deadline: _,
        drain_udp_idle: _,
        second_chance: _,
        check: _,
        failover: _,
        idle:
            IdleTimeouts {
                unanswered: _,
                established: _,
                closing: _,
                udp: _,
            },
        listeners: _,
    } = service;
}

fn changed<T: PartialEq>(from: T, to: T) -> Option<Changed<T>> {
    (from != to).then_some(Changed { from, to })
}

impl Difference {
    /// What `new` changes of `old`.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let rate = |config: &Config| config.agent.limits.inserts_per_second;
        let hooks = |config: &Config| -> Vec<String> {
            let hooks = config.agent.hooks.iter();
            hooks.map(ToString::to_string).collect()
        };
        Self {
            inserts_per_second: changed(rate(old), rate(new)),
            hooks: changed(hooks(old), hooks(new)),
            services: paired(&old.services, &new.services, |it| it.name.clone())
                .filter_map(|pair| service(&pair))
                .collect(),
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inserts_per_second.is_none() && self.hooks.is_none() && self.services.is_empty()
    }
}

/// A part as it was and as it is to be, of which it has at least one.
enum Pair<'a, T> {
    Added(&'a T),
    Removed(&'a T),
    Both { old: &'a T, new: &'a T },
}

impl<'a, T> Pair<'a, T> {
    /// The part as it is to be, or as it was.
    const fn named(&self) -> &'a T {
        match self {
            Self::Added(named) | Self::Removed(named) | Self::Both { new: named, .. } => named,
        }
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Added(_) => Kind::Added,
            Self::Removed(_) => Kind::Removed,
            Self::Both { .. } => Kind::Changed,
        }
    }
}

/// Pairs what has the same key: first in the order of `new`, then what only `old` has.
fn paired<'a, T, K: Ord>(
    old: &'a [T],
    new: &'a [T],
    key: impl Fn(&T) -> K,
) -> impl Iterator<Item = Pair<'a, T>> {
    let mut before: BTreeMap<K, &T> = old.iter().map(|it| (key(it), it)).collect();
    let mut pairs: Vec<Pair<'a, T>> = new
        .iter()
        .map(|new| match before.remove(&key(new)) {
            Some(old) => Pair::Both { old, new },
            None => Pair::Added(new),
        })
        .collect();
    let removed = old.iter().filter(|it| before.contains_key(&key(it)));
    pairs.extend(removed.map(Pair::Removed));
    pairs.into_iter()
}

fn service(pair: &Pair<'_, ServiceConfig>) -> Option<ServiceDifference> {
    let (old, new) = match pair {
        Pair::Added(new) => (&[][..], &new.listeners[..]),
        Pair::Removed(old) => (&old.listeners[..], &[][..]),
        Pair::Both { old, new } if old == new => return None,
        Pair::Both { old, new } => (&old.listeners[..], &new.listeners[..]),
    };
    let options = match pair {
        Pair::Both { old, new } => ServiceOptions::between(old, new),
        Pair::Added(_) | Pair::Removed(_) => ServiceOptions::default(),
    };
    let listeners: Vec<_> = paired(old, new, |it| it.name.clone())
        .filter_map(|pair| listener(&pair))
        .collect();
    let named = pair.named();
    // Another order of the same parts is no difference.
    let is_none = pair.kind() == Kind::Changed && options.is_empty() && listeners.is_empty();
    (!is_none).then(|| ServiceDifference {
        name: named.name.clone(),
        change: pair.kind(),
        options,
        listeners,
    })
}

fn listener(pair: &Pair<'_, ListenerConfig>) -> Option<ListenerDifference> {
    let named = pair.named();
    let before = match pair {
        Pair::Both { old, new } => (place(old) != place(new)).then(|| place(old)),
        Pair::Added(_) | Pair::Removed(_) => None,
    };
    let backends: Vec<_> = Color::ALL
        .into_iter()
        .flat_map(|color| {
            let (old, new) = match pair {
                Pair::Added(new) => (&[][..], new.backends(color)),
                Pair::Removed(old) => (old.backends(color), &[][..]),
                Pair::Both { old, new } => (old.backends(color), new.backends(color)),
            };
            paired(old, new, |it| (it.address, it.port))
                .filter_map(move |pair| backend(color, &pair))
        })
        .collect();
    let is_none = pair.kind() == Kind::Changed && before.is_none() && backends.is_empty();
    (!is_none).then(|| ListenerDifference {
        name: named.name.clone(),
        change: pair.kind(),
        place: place(named),
        before,
        backends,
    })
}

fn place(listener: &ListenerConfig) -> Place {
    // A new field must be told here, or in the difference of backends.
    let ListenerConfig {
        name: _,
        vip,
        port,
        protocol,
        preview,
        blue: _,
        green: _,
    } = *listener;
    Place {
        vip,
        port,
        protocol,
        preview,
    }
}

fn backend(color: Color, pair: &Pair<'_, BackendConfig>) -> Option<BackendDifference> {
    let weight_before = match pair {
        Pair::Both { old, new } if old.weight == new.weight => return None,
        Pair::Both { old, .. } => Some(old.weight),
        Pair::Added(_) | Pair::Removed(_) => None,
    };
    let named = pair.named();
    let BackendConfig {
        address,
        port,
        weight,
    } = *named;
    Some(BackendDifference {
        color,
        address,
        port,
        change: pair.kind(),
        weight,
        weight_before,
    })
}

#[cfg(test)]
mod tests;
