//! Whether a backend refuses everybody, or only somebody: from what the program reports of refused SYNs.

use std::net::{IpAddr, Ipv6Addr};

use switcher_common::clock::elapsed;

/// So many clients must be refused, and nobody answered, for a backend to be unhealthy whatever its checks say. One
/// client that it does not like, or that lies, is not enough.
pub const REFUSED_CLIENTS: usize = if cfg!(mutant = "one-client-ejects") {
    1
} else {
    3
};
/// Refusals count together within this time: 10 s, in ticks.
const WINDOW_TICKS: u32 = 9_537;

/// Refused SYNs of one backend since it answered one, each client's newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals(Vec<(IpAddr, u32)>);

impl Refusals {
    /// A SYN of `client` was refused at `tick`; `answered` is the tick of the backend's newest answer to
    /// anybody. Returns the clients once they are enough, and begins anew.
    pub fn refused(
        &mut self,
        client: IpAddr,
        tick: u32,
        answered: Option<u32>,
    ) -> Option<Vec<IpAddr>> {
        let client = network(client);
        self.0.retain(|(known, _)| *known != client);
        self.0.push((client, tick));
        let is_answered = |then: u32| {
            answered.is_some_and(|answered| elapsed(answered, then) > 0 || answered == then)
                && !cfg!(mutant = "answers-not-considered")
        };
        self.0
            .retain(|(_, then)| !is_answered(*then) && elapsed(tick, *then) <= WINDOW_TICKS);
        if self.0.len() < REFUSED_CLIENTS {
            return None;
        }
        Some(
            std::mem::take(&mut self.0)
                .into_iter()
                .map(|(it, _)| it)
                .collect(),
        )
    }
}

/// Who it is that is refused: of IPv6 a /64, in which one host has as many addresses as it likes.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}
