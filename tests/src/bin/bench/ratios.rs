//! What the figures come to: each ratio is ours divided by the reference, so lower is better for costs and higher for
//! throughput. Pure; what was not measured is absent.

use serde::Serialize;

use crate::{measurement::Measured, table::Table};

/// The figures that a machine reads first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Headline {
    pub(crate) ratios: Ratios,
    /// From the call of the API to the store of a flip: the slowest median of all sizes, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flip_visible_ms: Option<f64>,
    /// From the call of the API to its return, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flip_return_ms: Option<f64>,
    /// Counting a table of a million flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count_1m_ms: Option<f64>,
    /// Expiring half of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expire_500k_ms: Option<f64>,
    /// A packet that is not ours, with a million flows in the table, net of the harness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_ours_net_ns: Option<f64>,
    /// An established IPv4 TCP packet to the backend, net of the harness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcp4_established_net_ns: Option<f64>,
    /// A program that only passes, in the harness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) xdp_pass_ns: Option<f64>,
    /// Memory that one more flow takes in the tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_flow: Option<f64>,
    /// What the agent holds of main memory, with a million flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent_rss_1m_bytes: Option<u64>,
}

/// What a ratio has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_reached_by(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("at most {most}"),
            Self::AtLeast(least) => format!("at least {least}"),
        }
    }
}

macro_rules! ratios {
    ($($(#[$doc:meta])* $name:ident: $goal:expr,)*) => {
        /// Ours by the reference.
        #[derive(Clone, Debug, Default, PartialEq, Serialize)]
        pub(crate) struct Ratios {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub(crate) $name: Option<f64>,)*
        }

        impl Ratios {
            fn rows(&self) -> Vec<(&'static str, Option<f64>, Goal)> {
                vec![$((stringify!($name), self.$name, $goal),)*]
            }
        }
    };
}

ratios! {
    /// An established IPv4 TCP packet to the backend, by what parsing, the kernel's route, the new MAC addresses and a
    /// redirect cost.
    tcp4_established_vs_router_floor: Goal::AtMost(1.0),
    /// The same by what parsing, one hit in an LRU, a constant translation and a transmission cost.
    tcp4_established_vs_lookup_floor: Goal::AtMost(1.5),
    /// An established IPv4 TCP packet to the client, by the router's floor.
    tcp4_reverse_vs_router_floor: Goal::AtMost(1.0),
    /// An established TCP packet of IPv6, by one of IPv4.
    tcp6_vs_tcp4: Goal::AtMost(1.25),
    /// The first packet of a flow, by two insertions into an LRU and one lookup.
    new_flow_vs_inserts: Goal::AtMost(1.3),
    /// An established IPv4 TCP packet with a million flows that are visited at random, by one with one flow.
    flows_1m_vs_1: Goal::AtMost(2.0),
    /// The same, by the lookup floor over a map of the same type and size, visited likewise.
    flows_1m_vs_lookup_floor_1m: Goal::AtMost(1.4),
    /// Live packets per second on one core, 65 536 flows, by nftables DNAT with conntrack.
    live_64k_vs_nftables: Goal::AtLeast(4.0),
    /// The same, by the bare XDP router.
    live_64k_vs_router_floor: Goal::AtLeast(0.8),
    /// New UDP flows per second, by nftables DNAT.
    new_flows_vs_nftables: Goal::AtLeast(2.0),
    /// HTTP requests per second, a connection for each, by nftables DNAT.
    http_close_vs_nftables: Goal::AtLeast(1.0),
    /// HTTP requests per second on connections that stay, by nftables DNAT.
    http_keepalive_vs_nftables: Goal::AtLeast(1.0),
    /// HTTP requests per second, a connection for each, by HAProxy in TCP mode.
    http_close_vs_haproxy: Goal::AtLeast(1.25),
    /// HTTP requests per second on connections that stay, by HAProxy in TCP mode.
    http_keepalive_vs_haproxy: Goal::AtLeast(1.7),
    /// Bulk throughput, by nftables DNAT.
    bulk_vs_nftables: Goal::AtLeast(1.2),
}

impl Headline {
    /// Of what was measured.
    pub(crate) fn of(_measured: &Measured) -> Self {
        Self::default()
    }

    /// The ratios beside what they have to be.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new("Ratios, ours by the reference", ["", "is", "has to be", ""]);
        for (name, ratio, goal) in self.ratios.rows() {
            let is = ratio.map_or_else(|| "-".to_owned(), |it| format!("{it:.2}"));
            let verdict = match ratio {
                Some(ratio) if goal.is_reached_by(ratio) => "",
                Some(_) => "MISSED",
                None => "not measured",
            };
            table.row([name.to_owned(), is, goal.text(), verdict.to_owned()]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_absent() {
        let headline = Headline::of(&Measured::default());
        let object = serde_json::to_value(&headline).expect("it is plain data");
        assert_eq!(object, serde_json::json!({ "ratios": {} }));
        assert!(headline.table().to_string().contains("not measured"));
    }

    #[test]
    fn lower_is_better_for_costs_and_higher_for_throughput() {
        let ratios = Ratios {
            tcp6_vs_tcp4: Some(1.3),
            flows_1m_vs_1: Some(2.0),
            live_64k_vs_nftables: Some(3.9),
            bulk_vs_nftables: Some(1.2),
            ..Ratios::default()
        };
        let measured = ratios
            .rows()
            .into_iter()
            .filter_map(|(name, ratio, goal)| ratio.map(|ratio| (name, goal.is_reached_by(ratio))));
        let expected = [
            ("tcp6_vs_tcp4", false),
            ("flows_1m_vs_1", true),
            ("live_64k_vs_nftables", false),
            ("bulk_vs_nftables", true),
        ];
        assert_eq!(measured.collect::<Vec<_>>(), expected);
    }
}
