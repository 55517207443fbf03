//! Real servers and clients, run inside the hosts of a [`Lab`](crate::lab::Lab), and the judgement
//! over what the clients saw.
//!
//! Every answer names the backend that gave it, so a client knows its color. Fresh connections and
//! UDP flows are recorded with two instants: just before `connect()` (or the first datagram), and
//! when the first answer was complete. All rates are bounded.

mod attempts;
mod bulk;
mod client;
mod conversation;
mod counters;
mod dial;
mod echo_load;
mod echo_server;
mod fleet;
mod http_load;
mod http_server;
mod icmp;
mod identity;
mod judge;
mod raw;
mod record;
mod serving;
mod udp_load;
mod visits;

pub use attempts::{Attempt, Attempts};
pub use bulk::{BulkServer, Datagrams, PathMtus, transfer};
pub use client::{Client, Load};
pub use conversation::Conversation;
pub use counters::{challenge_acks, established_sockets, link_drops, tcp_retrans_segs};
pub use echo_load::LongLived;
pub use echo_server::EchoServer;
pub use fleet::{BULK_PORT, Backends, ECHO_PORT, HTTP_PORT};
pub use http_load::{HttpNew, KeepAlive};
pub use http_server::{HttpServer, Slow};
pub use icmp::{IcmpError, IcmpErrors, ping};
pub use identity::Identity;
pub use judge::{Flip, Kind, count_fresh, first_new_ms, late_old, mixed};
pub use raw::{Flood, RawPacket, RawSender};
pub use record::{Connection, FRESH_CAPACITY, Fresh, SAMPLES, Stats};
pub use udp_load::{UdpFlows, UdpLongLived};
pub use visits::{Page, Visits};
