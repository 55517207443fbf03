//! What `cargo xtask mutants` takes out or breaks, and what must notice.

/// A build without one promise, or with a fault, and the test that must notice.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) promise: &'static str,
    pub(super) without: &'static str,
    /// Test target of package switcher-tests, or [`DECISIONS`].
    pub(super) target: &'static str,
    /// Name of the test.
    pub(super) test: &'static str,
}

/// The unit tests of package switcher-userspace: its decisions need no kernel.
pub(super) const DECISIONS: &str = "decisions";

/// The policy of failover under years of simulated time.
const SIMULATION: &str = "failover::tests::simulation::";

/// Name of the differential test, which is the same each time.
const KNOWN_SEQUENCE: &str = "program_and_model_agree_on_a_known_sequence";

/// A small fault in what is done with packets.
const fn fault(name: &'static str, what: &'static str) -> Mutant {
    Mutant {
        name,
        promise: "fuzz",
        without: what,
        target: "fuzz",
        test: KNOWN_SEQUENCE,
    }
}

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

/// All of them.
pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "no-second-chance",
        promise: "G8",
        without: "a SYN that its backend has refused stays there",
        target: "packets",
        test: "chance::g8_a_refused_syn_goes_to_another_backend_when_it_is_repeated",
    },
    Mutant {
        name: "refusal-sent-on",
        promise: "G8",
        without: "the client is told of a refusal at once",
        target: "packets",
        test: "chance::g8_a_refused_syn_goes_to_another_backend_when_it_is_repeated",
    },
    Mutant {
        name: "second-chance-same-backend",
        promise: "G8",
        without: "a repeated SYN may go to a backend that has had it",
        target: "packets",
        test: "chance::g8_an_unanswered_syn_goes_to_another_backend_when_it_is_repeated_but_not_at_once",
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
    Mutant {
        name: "report-wakes-nobody",
        promise: "passive",
        without: "what the program reports makes no check",
        target: "e2e",
        test: "passive::a_crashed_server_is_ejected_at_its_first_refused_connection",
    },
    Mutant {
        name: "second-chance-at-once",
        promise: "G8",
        without: "a SYN that the network sends twice counts as unanswered",
        target: "packets",
        test: "chance::g8_an_unanswered_syn_goes_to_another_backend_when_it_is_repeated_but_not_at_once",
    },
    Mutant {
        name: "refusing-unknown",
        promise: "G8",
        without: "refusals are withheld also when all backends refuse",
        target: "packets",
        test: "chance::known::a_refusal_is_not_withheld_when_the_others_are_known_to_refuse",
    },
    Mutant {
        name: "second-chance-unbounded",
        promise: "G8",
        without: "a SYN goes on to one backend after the other",
        target: "packets",
        test: "chance::bounds::when_all_backends_refuse_the_client_gets_the_refusal",
    },
    Mutant {
        name: "second-chance-cut",
        promise: "G10",
        without: "a repeated SYN may go to a backend whose flows are cut",
        target: "packets",
        test: "chance::late::no_flow_goes_to_a_backend_whose_flows_are_cut",
    },
    Mutant {
        name: "chances-uncopied",
        promise: "G8",
        without: "the entry for the replies knows nothing of earlier second chances",
        target: "packets",
        test: "chance::bounds::when_all_backends_refuse_the_client_gets_the_refusal",
    },
    Mutant {
        name: "refusal-unproved",
        promise: "G8",
        without: "a refusal counts wherever it came in",
        target: "packets",
        test: "chance::known::a_refusal_that_came_by_another_way_than_its_backends_is_no_word_of_the_backend",
    },
    Mutant {
        name: "unreachable-sent-on",
        promise: "G8",
        without: "an unreachable about the SYN ends the client's attempt",
        target: "packets",
        test: "chance::late::an_error_that_says_that_the_backend_cannot_be_reached_is_withheld_as_a_refusal_is",
    },
    Mutant {
        name: "dead-backend-answers",
        promise: "G8",
        without: "a dead backend accepts a flow that is reset then",
        target: "packets",
        test: "chance::late::a_dead_backends_late_answer_is_not_taken_and_the_flow_goes_elsewhere",
    },
    Mutant {
        name: "answered-left",
        promise: "G8",
        without: "a flow leaves a backend whose answer is on its way",
        target: "packets",
        test: "chance::races::a_flow_whose_answer_is_on_its_way_stays",
    },
    Mutant {
        name: "reply-of-another",
        promise: "G8",
        without: "a backend answers that the client's packets do not go to",
        target: "packets",
        test: "chance::races::an_answer_of_a_backend_that_the_clients_packets_do_not_go_to_is_dropped",
    },
    Mutant {
        name: "left-unmarked",
        promise: "G9",
        without: "what a backend sends after the flow has left it goes to the client",
        target: "packets",
        test: "chance::late::nothing_of_the_backend_that_was_left_reaches_the_client_or_hurts_the_flow",
    },
    Mutant {
        name: "three-stores",
        promise: "G1",
        without: "a flip of several services is one store for each",
        target: "packets",
        test: "switching::g1_between_the_calls_of_a_flip_all_services_are_old_and_then_all_are_new",
    },
    Mutant {
        name: "apply-in-place",
        promise: "G1",
        without: "an apply's VIPs and endpoints are seen before its listeners",
        target: "packets",
        test: "apply::between_the_calls_of_an_apply_all_packets_see_the_old_or_all_the_new_configuration",
    },
    Mutant {
        name: "removed-passes",
        promise: "G11",
        without: "fresh flows of a removed listener pass while its old ones run on",
        target: "packets",
        test: "removed::a_removed_listeners_flows_go_on_and_all_else_is_dropped_until_it_is_ended",
    },
    Mutant {
        name: "no-pin",
        promise: "G2",
        without: "a flow goes where fresh flows go",
        target: "e2e",
        test: "flip::fifty_flips_break_nothing_mix_nothing_and_leave_nothing_late",
    },
    Mutant {
        name: "every-rst-believed",
        promise: "G2",
        without: "a RST counts with any sequence number",
        target: "packets",
        test: "closing::g2_a_rst_of_somebody_else_ends_no_pin_and_moves_none",
    },
    Mutant {
        name: "every-ack-believed",
        promise: "G2",
        without: "a RST counts with a number that anybody has acknowledged",
        target: "packets",
        test: "closing::g2_a_rst_of_somebody_else_ends_no_pin_and_moves_none",
    },
    Mutant {
        name: "syn-moves-pin",
        promise: "G2",
        without: "a SYN with a new number on an established flow selects afresh",
        target: "packets",
        test: "switching::g2_a_new_syn_on_an_established_flow_goes_to_its_backend_and_changes_nothing",
    },
    Mutant {
        name: "no-barrier",
        promise: "G3",
        without: "a flip stores into the array that packets read, which waits for no program",
        target: "e2e",
        test: "barrier::g3_a_flip_is_not_answered_while_a_program_runs_that_has_read_the_old_state",
    },
    Mutant {
        name: "pins-forgotten",
        promise: "G4",
        without: "the agent makes new maps at each start",
        target: "e2e",
        test: "lifecycle::a_killed_agent_costs_no_request_and_the_next_one_knows_all",
    },
    Mutant {
        name: "no-state-file",
        promise: "G5",
        without: "nothing is written to disk",
        target: "e2e",
        test: "adoption::after_a_reboot_the_state_file_decides_not_the_configuration",
    },
    Mutant {
        name: "written-in-place",
        promise: "G5",
        without: "files are overwritten, not replaced by whole ones",
        target: "e2e",
        test: "killed::g5_a_kill_at_any_step_of_a_flip_leaves_the_state_before_or_the_one_after",
    },
    Mutant {
        name: "terms-on-disk-alone",
        promise: "G5",
        without: "until the disk has a flip, only the agent knows its deadlines",
        target: "e2e",
        test: "killed::g5_a_kill_at_any_step_of_a_flip_leaves_the_state_before_or_the_one_after",
    },
    Mutant {
        name: "no-gate",
        promise: "G6",
        without: "a flip to a color without backends is carried out",
        target: "e2e",
        test: "commands::a_request_that_is_refused_changes_nothing",
    },
    Mutant {
        name: "never-promote",
        promise: "G7",
        without: "established flows stay in the LRU",
        target: "packets",
        test: "tables::g7_a_flood_evicts_no_established_flow_and_its_tables_stay_bounded",
    },
    Mutant {
        name: "retransmit-reselects",
        promise: "G8",
        without: "a repeated SYN selects afresh",
        target: "packets",
        test: "switching::g8_a_syn_that_is_sent_again_after_a_flip_keeps_its_color",
    },
    Mutant {
        name: "no-base-color",
        promise: "G9",
        without: "packets in the middle of a stream go to the active color",
        target: "packets",
        test: "switching::g9_a_packet_in_mid_stream_without_a_pin_goes_to_the_base_color",
    },
    Mutant {
        name: "drain-without-scan",
        promise: "G10",
        without: "a drain ends whatever the scan found",
        target: "e2e",
        test: "drains::at_the_deadline_the_flows_that_are_left_are_told_and_live_on",
    },
    Mutant {
        name: "counted-twice",
        promise: "G10",
        without: "a flow that is established during a scan is counted in both tables",
        target: "packets",
        test: "collect_traffic::flows_that_are_established_between_the_tables_of_a_scan_are_counted_once",
    },
    Mutant {
        name: "foreign-dropped",
        promise: "G11",
        without: "packets that are not ours are dropped",
        target: "packets",
        test: "not_ours::g11_packets_to_no_listener_pass_untouched",
    },
    Mutant {
        name: "zero-checksum-updated",
        promise: "RFC 768",
        without: "a UDP checksum of zero is updated",
        target: "packets",
        test: "rewriting::",
    },
    Mutant {
        name: "errors-untranslated",
        promise: "ICMP",
        without: "ICMP errors about a flow's packets stay on the node",
        target: "packets",
        test: "icmp::translated::errors_of_every_type_about_a_flow_are_translated_both_ways",
    },
    Mutant {
        name: "echo-unanswered",
        promise: "ICMP",
        without: "an echo request to a VIP gets no answer",
        target: "packets",
        test: "echo::",
    },
    Mutant {
        name: "no-own-errors",
        promise: "ICMP",
        without: "a sender is not told that its packet's time to live is over",
        target: "packets",
        test: "own_errors::a_packet_of_a_flow_whose_time_is_over_changes_nothing_and_its_sender_is_told",
    },
    Mutant {
        name: "fragments-lost",
        promise: "IP",
        without: "later fragments do not follow their first one",
        target: "packets",
        test: "fragments::fragments_of_both_directions_follow_their_first_one",
    },
    Mutant {
        name: "cut-flows-sent-on",
        promise: "G10",
        without: "packets of a cut flow are sent on",
        target: "packets",
        test: "cut::g10_a_cut_connections_next_packet_is_answered_with_a_rst_on_both_sides",
    },
    Mutant {
        name: "replies-from-anywhere",
        promise: "G9",
        without: "a reply is believed whichever interface it came in by",
        target: "packets",
        test: "replies::a_reply_from_another_interface_than_its_backends_begins_and_changes_no_flow",
    },
    Mutant {
        name: "no-sweep",
        promise: "G4",
        without: "without an agent idle flows stay in a full table",
        target: "e2e",
        test: "full::g4_without_an_agent_a_table_full_of_idle_flows_takes_new_ones",
    },
    Mutant {
        name: "no-insert-cap",
        promise: "G7",
        without: "a CPU records any number of flows",
        target: "fuzz",
        test: KNOWN_SEQUENCE,
    },
    Mutant {
        name: "trace-nothing",
        promise: "trace",
        without: "no reader is told of any packet",
        target: "packets",
        test: "trace::each_packet_of_a_flow_is_told_with_its_decision",
    },
    Mutant {
        name: "trace-everything",
        promise: "trace",
        without: "readers are told of packets that they have not asked for",
        target: "packets",
        test: "trace::a_reader_is_told_of_its_client_in_both_directions_and_of_its_service",
    },
    Mutant {
        name: "explain-other-backend",
        promise: "explain",
        without: "explain names another backend than the program chooses",
        target: "packets",
        test: "explain::packets_go_where_explain_says_and_asking_changes_nothing",
    },
    // The differential test must find each of these, in every stage of a packet's way.
    Mutant {
        name: "cut-untold",
        promise: "G10",
        without: "the agent hears of no cut flow",
        target: "e2e",
        test: "reset::g10_both_ends_of_silent_connections_are_reset_at_the_deadline",
    },
    Mutant {
        name: "no-split",
        promise: "split",
        without: "no client goes to the standby",
        target: "packets",
        test: "split::a_split_gives_the_standby_its_share_of_the_clients_and_more_is_never_less",
    },
    Mutant {
        name: "split-outlives-standby",
        promise: "split",
        without: "a standby that fails keeps its share of the clients",
        target: "e2e",
        test: "health::a_standby_that_fails_loses_its_share_of_the_clients",
    },
    Mutant {
        name: "nobody-ejected",
        promise: "health",
        without: "unhealthy backends keep their slots",
        target: "e2e",
        test: "health::a_backend_that_fails_its_checks_gets_no_fresh_connection_until_it_passes_them_again",
    },
    Mutant {
        name: "unproven-standby",
        promise: "G6",
        without: "a failover goes to a standby that has died unnoticed",
        target: "e2e",
        test: "failover::g6_a_standby_that_has_died_unnoticed_is_not_failed_over_to",
    },
    Mutant {
        name: "dead-keeps-flows",
        promise: "health",
        without: "flows of a dead backend are not cut",
        target: "e2e",
        test: "ejection::flows_of_a_backend_that_is_dead_are_reset_on_both_sides_and_no_others",
    },
    Mutant {
        name: "failover-told-only",
        promise: "failover",
        without: "a failover is told, and not carried out",
        target: "e2e",
        test: "failover::when_the_active_color_dies_the_standby_takes_over_and_the_history_says_why",
    },
    Mutant {
        name: "freeze-forgotten",
        promise: "failover",
        without: "nobody notes that an operator has changed the active color",
        target: "e2e",
        test: "failover::after_an_operators_flip_the_agent_waits_for_the_freeze",
    },
    Mutant {
        name: "failover-forgotten",
        promise: "failover",
        without: "an agent that starts knows nothing of failovers and alarms before",
        target: "e2e",
        test: "failover::the_hold_down_outlives_the_agent_and_its_end_is_decided_on",
    },
    Mutant {
        name: "failover-never-off",
        promise: "failover",
        without: "failover goes on though an operator has disabled it",
        target: "e2e",
        test: "failover::where_failover_is_disabled_an_alarm_tells_what_is_due_until_it_is_enabled",
    },
    Mutant {
        name: "drill-goes-on",
        promise: "drill",
        without: "the active color counts as unhealthy after the drill's failover too",
        target: "e2e",
        test: "drill::a_drill_fails_over_tells_how_that_went_and_undoes_it_without_breaking_a_connection",
    },
    Mutant {
        name: "drill-never-ends",
        promise: "drill",
        without: "the agent does not undo a drill's failover",
        target: "e2e",
        test: "drill::a_drill_is_undone_though_its_client_and_the_agent_were_killed",
    },
    Mutant {
        name: "no-pause",
        promise: "pause",
        without: "nothing is held",
        target: "packets",
        test: "pauses::a_pause_holds_what_begins_and_what_is_there_goes_on",
    },
    Mutant {
        name: "drained-gets-flows",
        promise: "backend drain",
        without: "a backend that is drained by hand gets fresh flows",
        target: "e2e",
        test: "verbs::a_drained_backend_gets_no_fresh_flows_and_keeps_the_ones_that_it_has",
    },
    Mutant {
        name: "never-taken-back",
        promise: "confirm",
        without: "a flip that nobody confirms stands",
        target: "e2e",
        test: "verbs::an_unconfirmed_flip_is_taken_back_in_all_its_services",
    },
    Mutant {
        name: "first-flow-ever",
        promise: "G10",
        without: "the first flow after a flip is that of the first flip ever",
        target: "packets",
        test: "receipt::g10_the_first_fresh_flow_after_each_flip_is_noted_and_no_other_one",
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
    fault(
        "fault-extension-length",
        "an extension header is eight bytes shorter than it says",
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
    fault("fault-color", "fresh flows go to the other color"),
    fault("fault-ring", "the same backend is tried again and again"),
    fault(
        "fault-reply-source",
        "a reply without a flow keeps its source port",
    ),
    fault(
        "fault-no-reverse",
        "a new flow is not recorded for its replies",
    ),
    fault(
        "fault-lru-kept",
        "an established flow's replies stay in the LRU as well",
    ),
    fault("fault-never-restored", "nothing brings a closing flow back"),
    fault(
        "fault-first-ack",
        "the largest acknowledgement that ends a handshake is one too small",
    ),
    fault(
        "fault-cut-newer",
        "an order cuts flows that began after its deadline",
    ),
    fault(
        "fault-port",
        "the port of a UDP datagram's destination is off by one",
    ),
    fault("fault-hop-limit", "the hop limit is not decremented"),
    fault("fault-checksum", "an updated checksum is off by one"),
    fault(
        "fault-zero-sum",
        "a UDP checksum that is computed as zero is sent as none",
    ),
    fault(
        "fault-quoted-checksum",
        "the checksum in an ICMP error's quote is not updated",
    ),
    fault(
        "fault-fragment-id",
        "fragments are told apart without their identification",
    ),
    fault("fault-quote-length", "an own error quotes a word too much"),
    fault(
        "fault-counter",
        "a flow that leaves the established table is counted as one that enters it",
    ),
];

#[cfg(test)]
mod tests {
    use std::{fs, io, path::Path};

    use super::*;
    use crate::workspace;

    fn read_all(dir: &Path, text: &mut String) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                read_all(&path, text)?;
            } else {
                text.push_str(&fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    #[test]
    fn every_mutant_is_in_the_code_and_every_one_there_is_listed() {
        let root = workspace::root().expect("the project's folder");
        let mut text = String::new();
        for package in ["switcher-common", "switcher-ebpf", "switcher-userspace"] {
            read_all(&root.join(package).join("src"), &mut text).expect("sources");
        }
        let mut there: Vec<_> = text
            .split("cfg!(mutant = \"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        let mut listed: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        there.sort_unstable();
        there.dedup();
        listed.sort_unstable();
        assert_eq!(listed, there);
    }
}
