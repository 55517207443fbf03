//! The second chance of a SYN that is refused or not answered.

use super::Mutant;

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
];
