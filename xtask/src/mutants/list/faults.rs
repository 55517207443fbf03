//! Small faults in every stage of a packet's way: the differential test finds each.

use super::{KNOWN_SEQUENCE, Mutant};

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

pub(super) const MUTANTS: &[Mutant] = &[
    fault(
        "fault-extension-length",
        "an extension header is eight bytes shorter than it says",
    ),
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
