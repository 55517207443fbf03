//! Decisions that need no kernel, seen by unit tests and the simulation.

use super::{DECISIONS, Mutant, SIMULATION};

/// A rule of failover that the decisions leave out, which their simulation must find.
const fn decision(name: &'static str, promise: &'static str, without: &'static str) -> Mutant {
    Mutant {
        name,
        promise,
        without,
        target: DECISIONS,
        test: SIMULATION,
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "new-pause-unseen",
        promise: "pause",
        without: "backends of a service whose pause alone has changed keep their orders",
        target: DECISIONS,
        test: "datapath::orders::tests::a_backend_whose_order_changes_is_of_a_service_that_is_looked_at",
    },
    Mutant {
        name: "hop-raised-once",
        promise: "next hop",
        without: "a change that holds only after the kernel has told of it is not raised for once more",
        target: DECISIONS,
        test: "hops::pace::",
    },
    Mutant {
        name: "one-client-ejects",
        promise: "passive",
        without: "one client that is refused is enough to take a backend out",
        target: DECISIONS,
        test: "failover::tests::refusals::",
    },
    Mutant {
        name: "answers-not-considered",
        promise: "passive",
        without: "refusals count though the backend answers others",
        target: DECISIONS,
        test: "failover::tests::refusals::",
    },
    decision(
        "no-hold-down",
        "failover",
        "one failover follows another at once",
    ),
    decision(
        "no-budget",
        "failover",
        "an hour has any number of failovers",
    ),
    decision(
        "no-freeze",
        "failover",
        "a failover does not wait after an operator's change",
    ),
    decision(
        "failover-to-bad",
        "failover",
        "a failover goes to a standby that could not serve",
    ),
    decision(
        "unknown-is-failure",
        "failover",
        "a backend without a result counts as one that fails",
    ),
    decision(
        "first-result-decides",
        "health",
        "one failed check makes a backend unhealthy",
    ),
    decision(
        "no-fail-open",
        "G6",
        "a color whose backends all fail has an empty table",
    ),
    Mutant {
        name: "hook-without-limit",
        promise: "hooks",
        without: "a hook may take as long as it likes",
        target: DECISIONS,
        test: "agent::hooks::tests::a_hook_that_takes_too_long_is_killed_with_what_it_has_started",
    },
    Mutant {
        name: "hooks-of-anyone",
        promise: "hooks",
        without: "hooks run from a configuration file that everybody can write",
        target: DECISIONS,
        test: "config::file::tests::hooks_are_refused_in_a_file_that_others_can_write",
    },
];
