//! What the figures come to: each ratio is ours divided by the reference, so lower is better for costs and higher for
//! throughput. Pure; what was not measured is absent.

use serde::Serialize;

use crate::{
    applications::{Applications, What},
    bed::Balancer,
    live::{self, Live},
    measurement::Measured,
    packets::{Packets, Program, Row},
    table::Table,
};

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
    /// Counting a table of a million flows, in milliseconds on a CPU.
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

const MILLION: usize = 1_000_000;

fn quotient(ours: Option<f64>, reference: Option<f64>) -> Option<f64> {
    Some(ours? / reference?)
}

/// The largest of those that there are.
fn worst(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    values.into_iter().flatten().reduce(f64::max)
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
    /// The same where it leaves by the interface that it came in by, by what parsing, one hit in an LRU, a constant
    /// translation and a transmission cost; the dearer direction.
    tcp4_established_vs_lookup_floor: Goal::AtMost(1.5),
    /// An established IPv4 TCP packet to the backend that leaves by another interface, by the same.
    tcp4_redirected_vs_lookup_floor: Goal::AtMost(1.5),
    /// An established IPv4 TCP packet to the client, by the router's floor.
    tcp4_reverse_vs_router_floor: Goal::AtMost(1.0),
    /// An established TCP packet of IPv6, by one of IPv4.
    tcp6_vs_tcp4: Goal::AtMost(1.25),
    /// The first packet of a flow, by two insertions into an LRU and one lookup.
    new_flow_vs_inserts: Goal::AtMost(1.3),
    /// The same beside a million established flows, among which it is looked for; not in a quick run.
    new_flow_1m_vs_inserts: Goal::AtMost(1.3),
    /// An established IPv4 TCP packet with a million flows that are visited at random, by one with one flow.
    flows_1m_vs_1: Goal::AtMost(2.0),
    /// The same, by the lookup floor over a map of the same type and size, visited likewise.
    flows_1m_vs_lookup_floor_1m: Goal::AtMost(1.4),
    /// Counting a million flows, by the kernel's walk over the same entries for a program that only looks at each.
    count_vs_walk: Goal::AtMost(1.5),
    /// Live packets per second on one core, 65 536 flows, by nftables DNAT with conntrack.
    live_64k_vs_nftables: Goal::AtLeast(4.0),
    /// The same, by the bare XDP router.
    live_64k_vs_router_floor: Goal::AtLeast(0.8),
    /// The same, by a bare XDP program that looks the flow up and knows where to.
    live_64k_vs_lookup: Goal::AtLeast(0.8),
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

impl Ratios {
    fn of_live(&mut self, live: &Live) {
        self.live_64k_vs_nftables = live.ratio(live::Node::Nftables);
        self.live_64k_vs_router_floor = live.ratio(live::Node::Router);
        self.live_64k_vs_lookup = live.ratio(live::Node::Lookup);
        self.new_flows_vs_nftables = live.new_flows_ratio(live::Node::Nftables);
    }

    fn of_applications(&mut self, applications: &Applications) {
        let ratio = |of, reference| applications.ratio(of, reference);
        self.http_close_vs_nftables = ratio(What::Close, Balancer::Nftables);
        self.http_keepalive_vs_nftables = ratio(What::Keepalive, Balancer::Nftables);
        self.http_close_vs_haproxy = ratio(What::Close, Balancer::Haproxy);
        self.http_keepalive_vs_haproxy = ratio(What::Keepalive, Balancer::Haproxy);
        self.bulk_vs_nftables = ratio(What::Bulk, Balancer::Nftables);
    }
}

impl Headline {
    /// Of what was measured.
    pub(crate) fn of(measured: &Measured) -> Self {
        let mut headline = Self::default();
        if let Some(packets) = &measured.packets {
            headline.add_packets(packets);
        }
        if let Some(flips) = &measured.flips {
            headline.flip_visible_ms = flips.slowest(|row| row.visible_ms);
            headline.flip_return_ms = flips.slowest(|row| row.return_ms);
            headline.bytes_per_flow = Some(flips.bytes_per_flow);
            headline.agent_rss_1m_bytes = flips.agent_rss_1m_bytes();
        }
        if let Some(collection) = &measured.collection {
            let (count, walk) = (collection.count_1m, collection.walk_1m);
            headline.count_1m_ms = Some(count.cpu_ms.median);
            headline.ratios.count_vs_walk = Some(count.cpu_ms.median / walk.cpu_ms.median);
            headline.expire_500k_ms = Some(collection.expire_500k.cpu_ms.median);
        }
        if let Some(live) = &measured.live {
            headline.ratios.of_live(live);
        }
        if let Some(applications) = &measured.applications {
            headline.ratios.of_applications(applications);
        }
        headline
    }

    fn add_packets(&mut self, packets: &Packets) {
        let forward = packets.row("tcp4_forward", 1);
        let by = |row: Option<&Row>, reference| {
            row.and_then(|row| Some(row.net(Program::Switcher)? / row.net(reference)?))
        };
        let net = |packet, flows| packets.row(packet, flows)?.net(Program::Switcher);
        self.tcp4_established_net_ns = net("tcp4_forward", 1);
        self.xdp_pass_ns = forward.and_then(|row| Some(row.cost(Program::Pass)?.ns.median));
        self.not_ours_net_ns = worst([net("not_ours4", MILLION), net("not_ours6", MILLION)]);
        let ratios = &mut self.ratios;
        ratios.tcp4_established_vs_router_floor = by(forward, Program::RouterFloor);
        ratios.tcp4_redirected_vs_lookup_floor = by(forward, Program::LookupFloorLru);
        let one_arm =
            ["tcp4_forward_one_arm", "tcp4_reverse_one_arm"].map(|name| packets.row(name, 1));
        ratios.tcp4_established_vs_lookup_floor =
            worst(one_arm.map(|row| by(row, Program::LookupFloorLru)));
        let reverse = packets.row("tcp4_reverse", 1);
        ratios.tcp4_reverse_vs_router_floor = by(reverse, Program::RouterFloor);
        ratios.tcp6_vs_tcp4 = quotient(net("tcp6_forward", 1), net("tcp4_forward", 1));
        let new_flow = |flows| {
            let rows = packets.rows.iter().filter(|row| row.flows == flows);
            worst(rows.map(|row| by(Some(row), Program::TwoInserts)))
        };
        ratios.new_flow_vs_inserts = new_flow(1);
        ratios.new_flow_1m_vs_inserts = new_flow(MILLION);
        ratios.flows_1m_vs_1 = quotient(net("tcp4_forward", MILLION), net("tcp4_forward", 1));
        let many = packets.row("tcp4_forward", MILLION);
        // Established flows are in a plain hash map.
        ratios.flows_1m_vs_lookup_floor_1m = by(many, Program::LookupFloorHash);
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
    use switcher_common::service::Protocol;
    use switcher_tests::lab::Family;

    use super::*;
    use crate::{
        packets::{Cost, Direction, Kind, What},
        spread::Spread,
    };

    #[test]
    fn what_was_not_measured_is_absent() {
        let headline = Headline::of(&Measured::default());
        let object = serde_json::to_value(&headline).expect("it is plain data");
        assert_eq!(object, serde_json::json!({ "ratios": {} }));
        assert!(headline.table().to_string().contains("not measured"));
    }

    /// A row with the harness at 30 ns and what each program costs beyond it.
    fn row(kind: Kind, flows: usize, net: &[(Program, f64)]) -> Row {
        let cost = |&(program, net_ns): &(Program, f64)| Cost {
            program,
            ns: Spread::of(&[30.0 + net_ns]).expect("there is a value"),
            net_ns,
        };
        let all = [(Program::Pass, 0.0)];
        Row {
            packet: kind,
            flows,
            costs: all.iter().chain(net).map(cost).collect(),
        }
    }

    const fn tcp(family: Family, direction: Direction) -> Kind {
        Kind {
            family,
            what: What::Established(Protocol::Tcp, direction),
        }
    }

    const fn one_arm(direction: Direction) -> Kind {
        Kind {
            family: Family::V4,
            what: What::OneArm(Protocol::Tcp, direction),
        }
    }

    #[test]
    fn ratios_of_packet_cost_are_of_what_is_left_without_the_harness() {
        use Program::{LookupFloorHash, LookupFloorLru, RouterFloor, Switcher, TwoInserts};
        let forward = tcp(Family::V4, Direction::Forward);
        let of = |family, what| Kind { family, what };
        let packets = Packets {
            rows: vec![
                row(
                    forward,
                    1,
                    &[
                        (RouterFloor, 200.0),
                        (LookupFloorLru, 100.0),
                        (LookupFloorHash, 70.0),
                        (Switcher, 100.0),
                    ],
                ),
                row(
                    one_arm(Direction::Forward),
                    1,
                    &[(LookupFloorLru, 80.0), (Switcher, 90.0)],
                ),
                row(
                    one_arm(Direction::Reverse),
                    1,
                    &[(LookupFloorLru, 80.0), (Switcher, 100.0)],
                ),
                row(
                    tcp(Family::V4, Direction::Reverse),
                    1,
                    &[(RouterFloor, 100.0), (Switcher, 150.0)],
                ),
                row(tcp(Family::V6, Direction::Forward), 1, &[(Switcher, 120.0)]),
                row(
                    forward,
                    MILLION,
                    &[
                        (LookupFloorLru, 100.0),
                        (LookupFloorHash, 200.0),
                        (Switcher, 250.0),
                    ],
                ),
                row(
                    of(Family::V4, What::NewUdp),
                    1,
                    &[(TwoInserts, 10.0), (Switcher, 13.0)],
                ),
                row(
                    of(Family::V6, What::Syn),
                    1,
                    &[(TwoInserts, 10.0), (Switcher, 12.0)],
                ),
                row(of(Family::V4, What::NotOurs), MILLION, &[(Switcher, 20.0)]),
                row(of(Family::V6, What::NotOurs), MILLION, &[(Switcher, 25.0)]),
                row(of(Family::V6, What::NotOurs), 1, &[(Switcher, 99.0)]),
            ],
        };
        let measured = Measured {
            packets: Some(packets),
            ..Measured::default()
        };
        let expected = Headline {
            tcp4_established_net_ns: Some(100.0),
            xdp_pass_ns: Some(30.0),
            not_ours_net_ns: Some(25.0),
            ratios: Ratios {
                tcp4_established_vs_router_floor: Some(0.5),
                tcp4_established_vs_lookup_floor: Some(1.25),
                tcp4_redirected_vs_lookup_floor: Some(1.0),
                tcp4_reverse_vs_router_floor: Some(1.5),
                tcp6_vs_tcp4: Some(1.2),
                new_flow_vs_inserts: Some(1.3),
                flows_1m_vs_1: Some(2.5),
                flows_1m_vs_lookup_floor_1m: Some(1.25),
                ..Ratios::default()
            },
            ..Headline::default()
        };
        assert_eq!(Headline::of(&measured), expected);
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
