//! The wire format of `GET /v1/explain`, and what a question must look like.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switcher_common::service::{Color, Protocol};

use super::types::{ApiError, ErrorCode};

/// `GET /v1/explain?protocol=tcp&client=192.0.2.1:40000&vip=198.51.100.1:80`: a packet's 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuestion {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The packet's source.
    pub client: SocketAddr,
    /// The packet's destination.
    pub vip: SocketAddr,
}

impl ExplainQuestion {
    /// Refuses endpoints that no packet can have together.
    pub fn check(&self) -> Result<(), ApiError> {
        let (client, vip) = (self.client, self.vip);
        if client.is_ipv4() != vip.is_ipv4() {
            return Err(usage(
                format!(
                    "cannot explain a packet from {client} to {vip}: one is IPv4, the other IPv6"
                ),
                "name two endpoints of one family",
            ));
        }
        let is_mapped = |ip: IpAddr| ip.to_canonical() != ip;
        match [client, vip].into_iter().find(|it| is_mapped(it.ip())) {
            None => Ok(()),
            Some(mapped) => Err(usage(
                format!(
                    "cannot explain a packet of {mapped}: an IPv4-mapped address is on no wire"
                ),
                "name the IPv4 address",
            )),
        }
    }
}

fn usage(message: String, next_step: &str) -> ApiError {
    ApiError::new(ErrorCode::Usage, message, next_step)
}

/// The answer to an [`ExplainQuestion`]: where such packets would go now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// As asked.
    pub protocol: Protocol,
    /// As asked.
    pub client: SocketAddr,
    /// As asked.
    pub vip: SocketAddr,
    /// The listener at `vip`; `null` when there is none.
    pub listener: Option<ExplainedListener>,
    /// Some listener has the address of `vip`, whatever its port and protocol.
    pub is_vip: bool,
    /// The flow of this 5-tuple; `null` when none is tracked.
    pub flow: Option<ExplainedFlow>,
    /// Where a packet would go that begins: the SYN of a new connection, or a datagram.
    pub begins: ExplainedWay,
    /// Where a packet in the middle of a TCP stream would go; `null` for UDP.
    pub mid_stream: Option<ExplainedWay>,
}

/// A listener in [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedListener {
    /// Its service; `null` for one that is configured no more.
    pub service: Option<String>,
    /// Its name; `null` for one that is configured no more.
    pub name: Option<String>,
    /// It selects the standby.
    pub preview: bool,
    /// The service's active color, as packets see it now.
    pub active: Color,
    /// The service's base color (G9), as packets see it now.
    pub base: Color,
    /// Generation of the service's newest change.
    pub generation: u64,
}

/// A tracked flow in [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that are independent of each other"
)]
pub struct ExplainedFlow {
    /// `established` or `unanswered`.
    pub table: String,
    /// `forward`: the 5-tuple is the client's. `reverse`: it is the backend's.
    pub direction: String,
    /// `unanswered`, `answered`, `established`, `closing`, `refused` or `cut`.
    pub state: String,
    /// Its service; `null` for one that is configured no more.
    pub service: Option<String>,
    /// The color that it is pinned to.
    pub color: Color,
    /// The backend that it is pinned to.
    pub backend: SocketAddr,
    /// Of a preview listener.
    pub preview: bool,
    /// It was recorded in the middle of a stream (G9).
    pub unpinned: bool,
    /// It is cut, by its state or by an order that has come due: no packet of it is sent on.
    pub cut: bool,
    /// The entries of both directions are there. The one of the replies may come with the first of them.
    pub both_directions: bool,
    /// Time since it began.
    pub age_ms: u64,
    /// Time since its newest packet.
    pub silent_ms: u64,
}

/// What would happen to a packet, in [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedWay {
    /// Forward, pass, answer or drop.
    pub outcome: Outcome,
    /// What decides on the backend; `null` unless the outcome is `forward`.
    pub why: Option<Why>,
    /// Why it would be passed or dropped: a reason as `switcher status` counts it.
    pub reason: Option<String>,
    /// The color that was chosen or is pinned.
    pub color: Option<Color>,
    /// The packet's source after translation.
    pub from: Option<SocketAddr>,
    /// The packet's destination after translation.
    pub to: Option<SocketAddr>,
    /// How the backend is chosen; `null` for a pinned flow, or when none is.
    pub selection: Option<ExplainedSelection>,
}

/// What would happen to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It would be translated, and sent on as the routing tables say.
    Forward,
    /// It would go to the stack untouched.
    Pass,
    /// It would be answered, and not sent on.
    Answer,
    /// It would be dropped.
    Drop,
}

/// What decides on the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// The flow is pinned.
    Pinned,
    /// What begins goes to the active color.
    Active,
    /// What is in the middle of a stream without a pin goes to the base color.
    Base,
    /// A preview listener selects the standby.
    Preview,
    /// A reply without a flow, from an endpoint of one listener only, is pinned again (G9): where it
    /// comes in by the interface that leads to its source, and unless it is for this node.
    Repinned,
}

/// A backend chosen by hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedSelection {
    /// Hash of the 5-tuple, 16 hexadecimal digits.
    pub hash: String,
    /// Slot of the color's Maglev table, from 0.
    pub slot: u32,
    /// Slots of that table.
    pub slots: u32,
    /// The slot's backend, then the next ones of its ring, as far as they would be tried.
    pub tried: Vec<TriedBackend>,
}

/// A backend that would be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TriedBackend {
    /// Its endpoint.
    pub backend: SocketAddr,
    /// It is not the client itself, its replies can be told from those of other flows, and it is not ejected, or
    /// all others that were tried were out of the question too.
    pub free: bool,
    /// It is ejected: no flow begins there if there is anybody else.
    #[serde(default)]
    pub ejected: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(client: &str, vip: &str) -> ExplainQuestion {
        ExplainQuestion {
            protocol: Protocol::Tcp,
            client: client.parse().expect("a literal endpoint"),
            vip: vip.parse().expect("a literal endpoint"),
        }
    }

    #[test]
    fn a_packet_has_one_family_and_no_mapped_address() {
        for (client, vip, ok) in [
            ("192.0.2.1:1", "198.51.100.1:80", true),
            ("[2001:db8::1]:1", "[2001:db8::2]:80", true),
            ("192.0.2.1:1", "[2001:db8::2]:80", false),
            ("[::ffff:192.0.2.1]:1", "[2001:db8::2]:80", false),
            ("[2001:db8::1]:1", "[::ffff:192.0.2.1]:80", false),
        ] {
            let checked = question(client, vip).check();
            assert_eq!(checked.is_ok(), ok, "{client} > {vip}: {checked:?}");
        }
    }
}
