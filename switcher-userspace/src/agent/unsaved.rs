//! What the disk does not have yet of the switch state, as the kernel keeps it while the writer is busy: the
//! deadlines of a flip that an agent has stored and died of. Nothing of it outlives the kernel, as the
//! flip itself does not.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::switching::{Service, Switchboard};

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unsaved {
    services: BTreeMap<String, Service>,
}

/// The services of `board` that have changed since generation `saved`, which the disk has; empty: none.
pub(super) fn encode(board: &Switchboard, saved: u64) -> Vec<u8> {
    if cfg!(mutant = "terms-on-disk-alone") {
        return Vec::new();
    }
    let changed = board
        .services
        .iter()
        .filter(|(_, it)| it.generation > saved);
    // Those change without a generation, so the disk decides about them.
    let without_backends = |service: &Service| Service {
        drained_backends: BTreeSet::new(),
        health: BTreeMap::new(),
        dead: BTreeMap::new(),
        failover: service.failover.abridged(),
        ..service.clone()
    };
    let services: BTreeMap<_, _> = changed
        .map(|(name, service)| (name.clone(), without_backends(service)))
        .collect();
    if services.is_empty() {
        return Vec::new();
    }
    serde_json::to_vec(&Unsaved { services }).unwrap_or_else(|error| {
        tracing::error!(%error, "the deadlines of this change are lost if the agent dies before the disk has them");
        Vec::new()
    })
}

/// What an agent before this one kept.
pub(super) fn decode(bytes: &[u8]) -> BTreeMap<String, Service> {
    if bytes.is_empty() {
        return BTreeMap::new();
    }
    match serde_json::from_slice::<Unsaved>(bytes) {
        Ok(unsaved) => unsaved.services,
        Err(error) => {
            tracing::warn!(%error, "an agent of another version died before its newest change was on disk: its drains begin anew");
            BTreeMap::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use switcher_common::service::Color;

    use super::*;
    use crate::{
        datapath::KEPT_BYTES_PER_SERVICE,
        switching::{AtDeadline, Confirm, Drill, Newest, Now, Origin, Pause},
    };

    const LATE: Now = Now {
        boot_ms: u64::MAX,
        wall_ms: u64::MAX,
    };

    const NEWEST: Newest = Newest {
        origin: Origin::Rollback,
        from: Color::Green,
        forced: false,
    };

    fn board(generation: u64, service: Service) -> Switchboard {
        Switchboard {
            generation,
            services: [("s".repeat(63), service)].into(),
        }
    }

    /// Every number at its largest.
    fn largest() -> Service {
        let drain = serde_json::json!({
            "color": "green",
            "generation": u64::MAX,
            "started": LATE,
            "deadline": LATE,
            "at_deadline": AtDeadline::Reset,
            "cut_before": { "answered": u64::MAX, "silent": u64::MAX, "moved": u64::MAX },
            "counted_before": { "flows_finished": u64::MAX, "unpinned_packets": u64::MAX },
            "cut_by_scans": { "answered": u64::MAX, "silent": u64::MAX, "moved": u64::MAX },
            "barrier_boot_ms": u64::MAX,
            "in_flight": u64::MAX,
            "empty_scans": u32::MAX,
            "late_scans": u32::MAX,
            "finished_by_hand": false,
            "receipt": {
                "first_new_flow": LATE,
                "last_old_packet": LATE,
                "counted": { "flows_finished": u64::MAX, "unpinned_packets": u64::MAX },
            },
            "ended": {
                "at": LATE,
                "flows_left": u64::MAX,
                "cuts": { "answered": u64::MAX, "silent": u64::MAX, "moved": u64::MAX },
            },
        });
        Service {
            active: Color::Green,
            base: Color::Green,
            generation: u64::MAX,
            newest: Some(NEWEST),
            confirm: Some(Confirm {
                deadline: LATE,
                flip: u64::MAX,
            }),
            split_percent: 100,
            pauses: vec![
                Pause {
                    listener: Some("l".repeat(63)),
                    until: LATE,
                    hard: false,
                };
                2
            ],
            drained_backends: BTreeSet::new(),
            health: BTreeMap::new(),
            dead: BTreeMap::new(),
            drain: Some(serde_json::from_value(drain).expect("a drain")),
            newest_manual: Some(LATE),
            drill: Some(Drill {
                generation: u64::MAX,
                until: LATE,
                before: Some(NEWEST),
            }),
            failover: serde_json::from_value(serde_json::json!({
                "flips": [LATE, LATE],
                "newest": LATE,
                "is_switched_off": false,
                "left": { "color": "green", "at": LATE },
            }))
            .expect("a policy's state"),
        }
    }

    #[test]
    fn the_largest_service_has_room_in_the_kernel() {
        let bytes = encode(&board(u64::MAX, largest()), 0);
        assert!(bytes.len() <= KEPT_BYTES_PER_SERVICE, "{}", bytes.len());
        assert_eq!(decode(&bytes).into_values().next(), Some(largest()));
    }

    #[test]
    fn what_the_disk_has_is_not_kept_and_drained_backends_never_are() {
        let service = Service {
            generation: 7,
            drained_backends: [([10, 0, 0, 1], 80).into()].into(),
            ..Service::new(Color::Blue)
        };
        assert!(encode(&board(7, service.clone()), 7).is_empty());
        let kept = decode(&encode(&board(7, service), 6));
        assert!(kept.values().all(|it| it.drained_backends.is_empty()));
        assert!(decode(b"{\"something\": 1}").is_empty());
    }
}
