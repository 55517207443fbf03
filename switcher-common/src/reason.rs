//! Why the program did what it did with a packet: one enum for counters, traces and messages.

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the stack of this node.
    Pass,
    /// Out of the interface that it came in by.
    Tx,
    /// Out of another interface.
    Redirect,
    /// Discarded.
    Drop,
    /// No verdict: counted beside one.
    Note,
}

impl Verdict {
    /// As the API shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Tx => "tx",
            Self::Redirect => "redirect",
            Self::Drop => "drop",
            Self::Note => "note",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $number:literal $name:ident $verdict:ident $text:literal;)*) => {
        /// Reason of a verdict. Numbers are never used again, also not those of removed reasons.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $name = $number,)* }

        impl Reason {
            /// All reasons, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The verdict that it goes with.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict,)* }
            }

            /// As the API shows it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

/// Entries of the counter array: more than the highest number of a reason.
pub const REASON_SLOTS: u32 = 64;

reasons! {
    /// Neither IPv4 nor IPv6 directly after the Ethernet header.
    1 NotIp Pass "not_ip";
    /// No listener and no flow.
    2 NotOurs Pass "not_ours";
    /// To one of our addresses, but neither TCP nor UDP.
    3 OtherProtocol Pass "other_protocol";
    /// A fragment from a backend's address: it has no ports to find a flow by.
    4 FragmentFromBackend Pass "fragment_from_backend";

    /// Rewritten; the route has no resolved neighbour yet, the stack resolves it and forwards.
    10 NoNeighbour Pass "rewritten_no_neighbour";
    /// Rewritten; forwarding is off on the incoming interface, the stack decides.
    11 ForwardingOff Pass "rewritten_forwarding_off";
    /// Rewritten; larger than the route's MTU, the stack fragments or reports it.
    12 AboveMtu Pass "rewritten_above_mtu";
    /// Rewritten; the route is none that the program can follow (local, tunnel), the stack decides.
    13 RouteNeedsStack Pass "rewritten_route_needs_stack";

    /// Rewritten and sent out of the interface that it came in by.
    20 Transmitted Tx "transmitted";
    /// Rewritten and sent out of another interface.
    21 Redirected Redirect "redirected";

    /// To one of our addresses, shorter than its headers say.
    30 Truncated Drop "truncated";
    /// To one of our addresses, with a header length that no sender means.
    31 BadHeader Drop "bad_header";
    /// To one of our addresses, a fragment: not supported yet.
    32 Fragment Drop "fragment";
    /// Time to live is over.
    33 TtlExceeded Drop "ttl_exceeded";
    /// The chosen color has no backend for this listener.
    34 NoBackend Drop "no_backend";
    /// The replies of every tried backend would meet those of another live flow.
    35 ReplyTupleTaken Drop "reply_tuple_taken";
    /// The flow could not be recorded.
    36 FlowInsertFailed Drop "flow_insert_failed";
    /// The kernel has no route to the rewritten destination.
    37 NoRoute Drop "no_route";
    /// The maps contradict each other, or a bounds check failed that cannot fail: a defect.
    38 Inconsistent Drop "inconsistent";
    /// The backend of a color that takes no fresh flows has accepted a new connection on an old
    /// flow's 5-tuple; its answer is lost, and the client's next SYN chooses afresh.
    39 ReopenedOnOldColor Drop "reopened_on_old_color";

    /// A SYN with the sequence number of the one that began the flow.
    50 SynRetransmit Note "syn_retransmit";
    /// In the middle of a stream, without a pin: sent to the base color.
    51 Unpinned Note "unpinned";
    /// The established table is full; the flow stays among the unanswered, which may evict it.
    52 EstablishedFull Note "established_table_full";
    /// A new connection on the 5-tuple of one that is over.
    53 TupleReused Note "tuple_reused";
    /// Data on a flow that had seemed over.
    54 Restored Note "flow_restored";
    /// A flow moved to the established table.
    55 Promoted Note "flow_established";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_fit_the_counter_array() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert!((*reason as u32) < REASON_SLOTS);
            for other in &Reason::ALL[at + 1..] {
                assert_ne!(*reason as u32, *other as u32);
                assert_ne!(reason.name(), other.name());
            }
        }
    }
}
