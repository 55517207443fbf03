//! What of `[agent]` cannot change while an agent runs.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{AgentConfig, Config, Limits};

/// A key of `[agent]` that differs from the running agent's, and cannot change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedKey {
    /// The key, below `[agent]`.
    pub key: &'static str,
    /// Its value now.
    pub from: String,
    /// The value that was asked for.
    pub to: String,
    /// What would change it.
    pub remedy: &'static str,
}

/// The agent does it when it starts, beside running traffic.
const RESTART: &str = "write it into the agent's own configuration file, then restart the agent, which loses no packet";
/// It belongs to what is loaded.
const DETACH: &str = "write it into the agent's own configuration file, stop the agent, \
                      `switcher detach`, then start the agent";
/// It would start without its state.
const MOVE: &str = "write it into the agent's own configuration file, stop the agent, move the \
                    directory, then start the agent";

/// Only who may write that file may say what runs with the agent's rights.
const OWN_FILE: &str =
    "write it into the agent's own configuration file, then apply that file or send SIGHUP";

impl Config {
    /// The keys that `new` has with values that cannot become this running configuration's.
    #[must_use]
    pub fn fixed_keys(&self, new: &Self) -> Vec<FixedKey> {
        let (old, new) = (&self.agent, &new.agent);
        let mut keys = agent_keys(old, new);
        keys.extend(limit_keys(&old.limits, &new.limits));
        keys
    }

    /// Hooks of `new` that are not this running configuration's. They run with the agent's rights, so whoever may only
    /// send configurations to the agent must not change them.
    #[must_use]
    pub fn foreign_hooks(&self, new: &Self) -> Option<FixedKey> {
        let shown = |config: &Self| -> Vec<String> {
            let hooks = config.agent.hooks.iter();
            hooks.map(ToString::to_string).collect()
        };
        differs("hook", &shown(self), &shown(new), OWN_FILE)
    }
}

fn agent_keys(old: &AgentConfig, new: &AgentConfig) -> Vec<FixedKey> {
    // Destructured, so that a new key is not forgotten.
    let AgentConfig {
        interfaces,
        mode,
        socket,
        pin_dir,
        state_dir,
        limits: _,
        // Whose they are decides (`Config::foreign_hooks`).
        hooks: _,
    } = old;
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    let keys = [
        differs(
            "interfaces",
            &set(interfaces),
            &set(&new.interfaces),
            RESTART,
        ),
        differs("mode", mode, &new.mode, DETACH),
        differs("socket", socket, &new.socket, RESTART),
        differs("pin_dir", pin_dir, &new.pin_dir, DETACH),
        differs("state_dir", state_dir, &new.state_dir, MOVE),
    ];
    keys.into_iter().flatten().collect()
}

fn limit_keys(old: &Limits, new: &Limits) -> Vec<FixedKey> {
    let Limits {
        flows,
        unanswered,
        fragments,
        services,
        listeners,
        backends,
        maglev_slots,
        // A rate, which may change at any time.
        inserts_per_second: _,
        interfaces,
    } = old;
    let keys = [
        ("limits.flows", flows, &new.flows),
        ("limits.unanswered", unanswered, &new.unanswered),
        ("limits.fragments", fragments, &new.fragments),
        ("limits.services", services, &new.services),
        ("limits.listeners", listeners, &new.listeners),
        ("limits.backends", backends, &new.backends),
        ("limits.maglev_slots", maglev_slots, &new.maglev_slots),
        ("limits.interfaces", interfaces, &new.interfaces),
    ];
    keys.into_iter()
        .filter_map(|(key, old, new)| differs(key, old, new, DETACH))
        .collect()
}

fn differs<T: PartialEq + Serialize>(
    key: &'static str,
    from: &T,
    to: &T,
    remedy: &'static str,
) -> Option<FixedKey> {
    // Strings, numbers and lists read in JSON as in the file.
    let text = |value: &T| serde_json::to_string(value).unwrap_or_default();
    (from != to).then(|| FixedKey {
        key,
        from: text(from),
        to: text(to),
        remedy,
    })
}
