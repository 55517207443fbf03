//! The wire format of `GET /v1/trace`, and what a reader is fed with.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::Color;
use tokio::sync::{Notify, mpsc};

use super::types::{ApiError, ErrorCode};

/// `GET /v1/trace?client=192.0.2.1&service=web`: which packets to tell of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Packets from and to this address, those that are not ours too; absent: of all that are ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Packets of this service's flows and listeners; absent: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

impl TraceRequest {
    /// Refuses an address that no packet has.
    pub fn check(&self) -> Result<(), ApiError> {
        match self.client.filter(|ip| ip.to_canonical() != *ip) {
            None => Ok(()),
            Some(mapped) => Err(ApiError::new(
                ErrorCode::Usage,
                format!("cannot trace {mapped}: an IPv4-mapped address is on no wire"),
                "name the IPv4 address",
            )),
        }
    }
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TraceLine {
    /// Packets are being traced: the first line, and again when there was nothing else to tell.
    Tracing,
    /// A packet.
    Decision(Box<Decision>),
    /// Packets that matched and are not told, because the program or the reader could not keep up.
    /// Those that the program could not tell are counted for each reader, whatever it asked for.
    Lost {
        /// How many.
        decisions: u64,
    },
}

/// What was decided about a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// When, in microseconds.
    pub seen_at: String,
    /// The interface that it came in by; `null` when that is gone.
    pub interface: Option<String>,
    /// Where it was decided: `parse`, `ours`, `flow`, `select`, `answer` or `forward`.
    pub stage: String,
    /// `tx`, `redirect`, `pass` or `drop`.
    pub verdict: String,
    /// Why: a reason as `switcher status` counts it.
    pub reason: String,
    /// What was counted beside the verdict.
    pub notes: Vec<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or the IP protocol's number.
    pub protocol: String,
    /// TCP flags that are set, such as `SYN,ACK`; `null` for other protocols.
    pub tcp_flags: Option<String>,
    /// Source as it came in; without a port where it has none, or none that could be read.
    pub from: String,
    /// Destination as it came in.
    pub to: String,
    /// Source as it was sent on; `null` unless it was translated.
    pub sent_from: Option<String>,
    /// Destination as it was sent on; `null` unless it was translated.
    pub sent_to: Option<String>,
    /// Bytes of the IP packet as it came in.
    pub bytes: u16,
    /// Service of its flow or listener; `null` when it has none.
    pub service: Option<String>,
    /// The color that is pinned or was chosen.
    pub color: Option<Color>,
    /// The flow that it belongs to, begins, or is about; `null` when there is none.
    pub flow: Option<DecisionFlow>,
}

/// A flow in [`Decision`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DecisionFlow {
    /// The packet began it.
    pub is_new: bool,
    /// `forward`: from the client. `reverse`: from the backend.
    pub direction: String,
    /// Its state after the packet, as in an explanation.
    pub state: String,
    /// Its backend; without a port for ICMP.
    pub backend: String,
    /// Of a preview listener.
    pub preview: bool,
    /// It was recorded in the middle of a stream (G9).
    pub unpinned: bool,
}

/// What a reader gets, in a queue of bounded length. Dropping it ends the reader's trace.
#[derive(Debug)]
pub struct TraceFeed {
    decisions: mpsc::Receiver<Decision>,
    lost: Arc<AtomicU64>,
    // Dropped after the queue, so that whoever hears of it finds it closed.
    _leaves: Leaves,
}

#[derive(Debug)]
struct Leaves(Arc<Notify>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl TraceFeed {
    /// A feed out of a queue and a counter of what found it full; `left` hears when it is dropped.
    #[must_use]
    pub const fn new(
        decisions: mpsc::Receiver<Decision>,
        lost: Arc<AtomicU64>,
        left: Arc<Notify>,
    ) -> Self {
        Self {
            decisions,
            lost,
            _leaves: Leaves(left),
        }
    }

    /// What was lost since the last call, if anything was.
    #[must_use]
    pub fn lost(&self) -> Option<TraceLine> {
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => None,
            decisions => Some(TraceLine::Lost { decisions }),
        }
    }

    /// The next line; `None`: tracing has ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<TraceLine> {
        if let Some(lost) = self.lost() {
            return Some(lost);
        }
        let decision = self.decisions.recv().await?;
        Some(TraceLine::Decision(Box::new(decision)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_on_no_wire() {
        for (client, ok) in [
            ("192.0.2.1", true),
            ("2001:db8::1", true),
            ("::ffff:192.0.2.1", false),
        ] {
            let request = TraceRequest {
                client: client.parse().ok(),
                service: None,
            };
            assert_eq!(request.check().is_ok(), ok, "{client}");
        }
    }
}
