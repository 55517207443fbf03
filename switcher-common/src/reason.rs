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

            /// The reason of a number. One that no reason has is a defect.
            #[inline(always)]
            #[must_use]
            pub const fn from_code(code: u32) -> Self {
                match code { $($number => Self::$name,)* _ => Self::Inconsistent }
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
pub const REASON_SLOTS: u32 = 128;

reasons! {
    /// Neither IPv4 nor IPv6 directly after the Ethernet header.
    1 NotIp Pass "not_ip";
    /// No listener and no flow.
    2 NotOurs Pass "not_ours";
    /// To one of our addresses, but neither TCP nor UDP.
    3 OtherProtocol Pass "other_protocol";
    /// A fragment from a backend's address whose ports or flow are not known.
    4 FragmentFromBackend Pass "fragment_from_backend";
    /// To a multicast or broadcast link address: not sent to this node alone.
    5 LinkMulticast Pass "link_multicast";
    /// ICMP to one of our addresses that is neither an echo request nor an error about a flow.
    6 IcmpUnrelated Pass "icmp_unrelated";

    /// Rewritten; the route has no resolved neighbour yet, the stack resolves it and forwards.
    10 NoNeighbour Pass "rewritten_no_neighbour";
    /// Rewritten; forwarding is off on the incoming interface, the stack decides.
    11 ForwardingOff Pass "rewritten_forwarding_off";
    /// Rewritten; larger than the route's MTU, the stack fragments it.
    12 AboveMtu Pass "rewritten_above_mtu";
    /// Rewritten; the route is none that the program can follow (local, tunnel), the stack decides.
    13 RouteNeedsStack Pass "rewritten_route_needs_stack";

    /// Rewritten; the outgoing interface cannot take redirected frames, the stack sends it.
    14 NoRedirect Pass "rewritten_no_redirect";
    /// Rewritten; it leaves with other VLAN tags than it came with, the stack sees to that.
    15 TagChanges Pass "rewritten_vlan";
    /// Rewritten; in generic mode, a packet whose checksum its sender has left to hardware, or that the
    /// kernel has merged: only the stack can send it on.
    16 ChecksumLeft Pass "rewritten_checksum_left";

    /// Rewritten and sent out of the interface that it came in by.
    20 Transmitted Tx "transmitted";
    /// Rewritten and sent out of another interface.
    21 Redirected Redirect "redirected";
    /// Of a cut flow: answered with a RST.
    22 ResetSent Tx "reset_sent";
    /// An echo request to a VIP: answered.
    23 EchoAnswered Tx "echo_answered";
    /// Larger than the next hop takes: its sender was told.
    24 TooBigSent Tx "too_big_sent";
    /// Time to live is over: its sender was told.
    25 TimeExceededSent Tx "time_exceeded_sent";

    /// To one of our addresses, shorter than its headers say.
    30 Truncated Drop "truncated";
    /// To one of our addresses, with a header length that no sender means.
    31 BadHeader Drop "bad_header";
    /// To one of our addresses, a fragment whose first part has not been seen.
    32 Fragment Drop "fragment";
    /// Time to live is over, and its sender is not told: too many were, or it may not be.
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

    /// More flows began on this CPU than the cap allows.
    40 InsertRate Drop "insert_rate_exceeded";
    /// From an address that no client has, or from one of our own: a VIP's, or the node's.
    41 MartianSource Drop "martian_source";
    /// From a backend that is the only one to send it to.
    42 SourceIsBackend Drop "source_is_backend";
    /// IPv6 extension headers beyond the stated limits.
    43 ExtensionHeaders Drop "extension_headers";
    /// Of a cut flow, and not to be answered.
    44 FlowCut Drop "flow_cut";
    /// Larger than the next hop takes, and its sender is not told: too many were, or it may not be.
    45 TooBig Drop "too_big";
    /// From a backend's endpoint, of no flow, and nobody can say which listener's it is.
    46 UnexpectedReply Drop "unexpected_reply";
    /// A backend has refused a SYN, and another one is tried when the client repeats it.
    47 RefusalWithheld Drop "refusal_withheld";
    /// From a backend that the flow has left: another one has its SYN.
    48 LateAnswer Drop "late_answer";

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
    /// A flow that seems over moved out of the established table.
    56 Demoted Note "flow_closed";
    /// A reply that came in by another interface than the route back to its source uses; it was
    /// translated, and counts for nothing else.
    57 ReplyUnverified Note "reply_unverified";
    /// The LRU had forgotten one direction of a flow; it was made again.
    58 DirectionRestored Note "direction_restored";
    /// An ICMP error about a flow: translated.
    59 IcmpTranslated Note "icmp_translated";
    /// A reply without a flow: its flow was made again.
    60 ReplyRepinned Note "reply_repinned";
    /// No place among the flows that the program sweeps by itself; only the agent finds this one
    /// when it is idle.
    61 SweepFull Note "sweep_full";
    /// An idle flow that the program swept.
    62 Swept Note "flow_swept";
    /// Its listener is paused: what begins a flow waits until its sender tries again, or all does.
    65 Paused Drop "paused";
    /// A UDP flow of a cut color: selected afresh.
    63 FlowMoved Note "flow_moved";
    /// One direction of a flow had been forgotten, and another flow has its place: the flow cannot be
    /// made whole again, and stays in its table.
    64 DirectionTaken Note "direction_taken";
    /// Of no flow, to a listener that is configured no more and whose last flows still run.
    66 ListenerRemoved Drop "listener_removed";
    /// A repeated SYN that its backend had refused or left unanswered: sent to another one.
    67 SecondChance Note "second_chance";
    /// A backend has refused a SYN, whether its RST was withheld or sent on.
    68 SynRefused Note "syn_refused";
    /// A repeated SYN that its backend has neither answered nor refused.
    69 SynUnanswered Note "syn_unanswered";
    /// A backend has reset many established flows in a short time.
    70 ResetBurst Note "reset_burst";
    /// Something about a backend that the agent was not told: it was too much at once.
    71 ReportLost Note "report_lost";
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
