//! A lab in which ways can be changed, and the changes.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Host, Lab, add_link},
    traffic::{Backends, ECHO_PORT, EchoServer, Identity},
};

use crate::hops::{OTHER_MAC, behind_a_router, ip};

/// Further links of the node to green and to the client's router, and the addresses of their ends.
const TO_GREEN: &str = "g9";
const TO_ROUTER: &str = "c9";
const FAR: &str = "eth9";
const GREEN_ENDS: [[&str; 2]; 2] = [["10.99.0.1", "10.99.0.2"], ["fd00:99::1", "fd00:99::2"]];
const ROUTER_ENDS: [[&str; 2]; 2] = [["10.98.0.1", "10.98.0.2"], ["fd00:98::1", "fd00:98::2"]];
/// The client's networks and their router, as the node sees them: see [`switcher_tests::lab::Link`].
const CLIENTS: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];
const ROUTER: &str = "client-router";
const ROUTERS: [&str; 2] = ["10.101.0.2", "fe80::1:2"];

/// Addresses of both families, by number.
type Both = [IpAddr; 2];

/// Something that happens on a host.
enum Step {
    Ip(&'static str, String),
    Sysctl(&'static str, &'static str),
}

fn node(arguments: String) -> Step {
    Step::Ip("node", arguments)
}

/// What shows that a flow's packets go the new way.
#[derive(Clone, Copy)]
pub(super) enum Sign {
    AnsweredBy(Color),
    /// The program counts them by this reason.
    Counted(&'static str),
    /// Nothing: no flow keeps a hop then.
    None,
}

/// A change of ways.
pub(super) struct Change {
    steps: Vec<Step>,
    pub(super) sign: Sign,
}

impl Change {
    fn new(sign: Sign, steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            sign,
        }
    }

    pub(super) fn make(&self, lab: &Lab) -> Result<()> {
        for step in &self.steps {
            match step {
                Step::Ip(host, arguments) => ip(lab.host(host)?, arguments)?,
                Step::Sysctl(key, value) => lab.node().set_sysctl(key, value)?,
            }
        }
        Ok(())
    }
}

/// The packets go to this color.
fn to(color: Color, steps: impl IntoIterator<Item = Step>) -> Change {
    Change::new(Sign::AnsweredBy(color), steps)
}

/// A change, and the one that takes it back.
pub(super) struct Turn {
    pub(super) what: &'static str,
    pub(super) families: &'static [Family],
    pub(super) there: Change,
    pub(super) back: Change,
}

/// The lab, with servers: green has the addresses of blue's only backend too.
pub(super) struct Scene {
    pub(super) lab: Lab,
    _servers: (Backends, EchoServer),
    blue: Both,
    green: Both,
}

impl Scene {
    pub(super) fn new() -> Result<Self> {
        let lab = Lab::builder().topology(behind_a_router(1)).build()?;
        let [blue, green] = [Color::Blue, Color::Green]
            .map(|color| Family::ALL.map(|family| lab.backends(color, family)[0]));
        for address in blue {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            ip(lab.green(), &format!("addr add {address} dev lo{nodad}"))?;
        }
        let identity = Identity {
            color: Color::Green,
            backend: 0,
        };
        let at = blue.map(|it| SocketAddr::new(it, ECHO_PORT));
        let servers = (
            Backends::start(&lab)?,
            EchoServer::start(lab.green(), identity, &at)?,
        );
        link(&lab, lab.green(), TO_GREEN, GREEN_ENDS)?;
        link(&lab, lab.host(ROUTER)?, TO_ROUTER, ROUTER_ENDS)?;
        Ok(Self {
            lab,
            _servers: servers,
            blue,
            green,
        })
    }

    /// By routes, rules, nexthop objects, and what these depend on. The kernel tells of deleted routes, nexthop
    /// objects, addresses and of links that go down before it forgets them, and of the routes that end with
    /// the latter three not at all.
    pub(super) fn turns_of_routes(&self) -> Result<Vec<Turn>> {
        use Color::{Blue, Green};
        let id = |address: IpAddr| if address.is_ipv4() { 4 } else { 6 };
        let mut turns = Vec::new();
        // What is told of one family would be good for the other one.
        for families in Family::ALL.chunks(1) {
            let each = |arguments: fn(IpAddr, IpAddr) -> String| self.each(families, arguments);
            let table = each(|blue, green| format!("route add {blue} via {green} dev g table 100"));
            to(Blue, table).make(&self.lab)?;
            turns.extend([
                Turn {
                    what: "a route",
                    families,
                    there: to(
                        Green,
                        each(|blue, green| format!("route add {blue} via {green} dev g")),
                    ),
                    back: to(Blue, each(|blue, _| format!("route del {blue}"))),
                },
                Turn {
                    what: "a rule",
                    families,
                    there: to(
                        Green,
                        each(|blue, _| format!("rule add to {blue} lookup 100")),
                    ),
                    back: to(
                        Blue,
                        each(|blue, _| format!("rule del to {blue} lookup 100")),
                    ),
                },
            ]);
        }
        let object = |_, green| format!("nexthop add id {} via {green} dev g", id(green));
        let route = |blue, _| format!("route add {blue} nhid {}", id(blue));
        let mut steps = self.each(&Family::ALL, object);
        steps.extend(self.each(&Family::ALL, route));
        let end = |blue, _| format!("nexthop del id {}", id(blue));
        turns.push(Turn {
            what: "a nexthop object",
            families: &Family::ALL,
            there: to(Green, steps),
            back: to(Blue, self.each(&Family::ALL, end)),
        });
        let [blue, green] = [self.blue[0], self.green[0]];
        let own = "10.97.0.1/32 dev lo";
        let there = [
            node(format!("addr add {own} noprefixroute")),
            node(format!("route add {blue} via {green} dev g src 10.97.0.1")),
        ];
        turns.push(Turn {
            what: "an address that a route names as the source",
            families: &[Family::V4],
            there: to(Green, there),
            back: to(Blue, [node(format!("addr del {own}"))]),
        });
        turns.push(self.turn_of_interface()?);
        Ok(turns)
    }

    fn turn_of_interface(&self) -> Result<Turn> {
        let mac = mac(self.lab.green(), FAR)?;
        // With the interface all that leads by it is forgotten.
        let mut up = vec![node(format!("link set dev {TO_GREEN} up"))];
        for ([_, far], blue) in GREEN_ENDS.iter().zip(self.blue) {
            up.extend([
                introduction(far, &mac, TO_GREEN),
                node(format!("route add {blue} via {far} dev {TO_GREEN} onlink")),
            ]);
        }
        let down = [node(format!("link set dev {TO_GREEN} down"))];
        Ok(Turn {
            what: "an interface",
            families: &Family::ALL,
            there: to(Color::Green, up),
            back: to(Color::Blue, down),
        })
    }

    /// By what packets are sent to: the backend and the client's gateway get other link addresses, and that
    /// gateway is reached by another interface. Each time nobody has the old link address any more.
    pub(super) fn turns_of_neighbours(&self) -> Result<Vec<Turn>> {
        let [v4, v6] = ROUTERS;
        let backend = self.neighbour("blue", "b", self.blue)?;
        let router = self.neighbour(ROUTER, "c1", [v4.parse()?, v6.parse()?])?;
        let moves = |neighbour: &Neighbour, mac: &str| {
            to(
                Color::Blue,
                neighbour
                    .changed(mac)
                    .into_iter()
                    .chain(neighbour.told(mac)),
            )
        };
        let mac = mac(self.lab.host(ROUTER)?, FAR)?;
        let far = |mac: &str| Step::Ip(ROUTER, format!("link set dev {FAR} address {mac}"));
        let by = |gateways: [&str; 2], interface| {
            let steps = CLIENTS.into_iter().zip(gateways).map(|(clients, gateway)| {
                node(format!(
                    "route replace {clients} via {gateway} dev {interface}"
                ))
            });
            steps.collect::<Vec<_>>()
        };
        let there = router.changed(OTHER_MAC).into_iter().chain([far(&mac)]);
        let there = there.chain(by(ROUTER_ENDS.map(|it| it[1]), TO_ROUTER));
        let back = router
            .changed(&router.mac)
            .into_iter()
            .chain([far(OTHER_MAC)]);
        let back = back.chain(by(ROUTERS, "c1"));
        let turn = |what, there, back| Turn {
            what,
            families: &Family::ALL,
            there,
            back,
        };
        Ok(vec![
            turn(
                "another link address of the backend",
                moves(&backend, OTHER_MAC),
                moves(&backend, &backend.mac),
            ),
            turn(
                "another link address of the client's gateway",
                moves(&router, OTHER_MAC),
                moves(&router, &router.mac),
            ),
            turn(
                "another interface to the client's gateway",
                to(Color::Blue, there),
                to(Color::Blue, back),
            ),
        ])
    }

    /// A step of the node for each family, made of the addresses of blue's backend and of green's.
    fn each(&self, families: &[Family], arguments: impl Fn(IpAddr, IpAddr) -> String) -> Vec<Step> {
        let step = |&family: &Family| {
            let option = match family {
                Family::V4 => "-4",
                Family::V6 => "-6",
            };
            let at = family as usize;
            node(format!(
                "{option} {}",
                arguments(self.blue[at], self.green[at])
            ))
        };
        families.iter().map(step).collect()
    }

    fn neighbour(&self, host: &'static str, near: &'static str, own: Both) -> Result<Neighbour> {
        let mut links = self.lab.topology().links.iter();
        let link = links.find(|link| link.node_interface == near);
        let link = link.with_context(|| format!("no link at {near}"))?;
        Ok(Neighbour {
            host,
            near,
            own,
            mac: mac(self.lab.host(host)?, FAR_INTERFACE)?,
            node: Family::ALL.map(|family| link.node_address(family)),
            node_mac: mac(self.lab.node(), near)?,
        })
    }
}

/// Interfaces of the client that forward no more. The stack drops what it gets of them.
pub(super) fn turns_of_forwarding() -> Vec<Turn> {
    const KEYS: [&str; 2] = ["net/ipv4/conf/c1/forwarding", "net/ipv6/conf/c1/forwarding"];
    let turn = |(families, key)| Turn {
        what: "whether an interface forwards",
        families,
        there: Change::new(
            Sign::Counted("rewritten_forwarding_off"),
            [Step::Sysctl(key, "0")],
        ),
        back: Change::new(Sign::None, [Step::Sysctl(key, "1")]),
    };
    Family::ALL.chunks(1).zip(KEYS).map(turn).collect()
}

/// A host at the interface `near` of the node.
struct Neighbour {
    host: &'static str,
    near: &'static str,
    own: Both,
    mac: String,
    node: Both,
    node_mac: String,
}

impl Neighbour {
    /// It gets a link address, by which its kernel forgets its neighbours, and the node does not hear of it.
    fn changed(&self, mac: &str) -> Vec<Step> {
        let set = format!("link set dev {FAR_INTERFACE} address {mac}");
        let neighbours = self.node.map(|address| {
            let node_mac = &self.node_mac;
            format!("neigh replace {address} lladdr {node_mac} dev {FAR_INTERFACE} nud permanent")
        });
        let all = std::iter::once(set).chain(neighbours);
        all.map(|it| Step::Ip(self.host, it)).collect()
    }

    /// The node hears of it.
    fn told(&self, mac: &str) -> [Step; 2] {
        self.own
            .map(|address| introduction(&address.to_string(), mac, self.near))
    }
}

/// The node gets to know a neighbour.
fn introduction(address: &str, mac: &str, interface: &str) -> Step {
    node(format!(
        "neigh replace {address} lladdr {mac} dev {interface} nud permanent"
    ))
}

fn mac(host: &Host, interface: &str) -> Result<String> {
    let mac = host.interface(interface)?.mac;
    Ok(mac.map(|it| format!("{it:02x}")).join(":"))
}

/// A second link from the node to `far`, both ends up.
fn link(lab: &Lab, far: &Host, near: &'static str, ends: [[&str; 2]; 2]) -> Result<()> {
    let node = lab.node();
    add_link(node, near, far, FAR, lab.topology().mtu)?;
    for (end, (host, name)) in [(node, near), (far, FAR)].into_iter().enumerate() {
        let [v4, v6] = ends.map(|it| it[end]);
        ip(host, &format!("addr add {v4}/24 dev {name}"))?;
        ip(host, &format!("addr add {v6}/64 dev {name} nodad"))?;
        ip(host, &format!("link set dev {name} up"))?;
    }
    let mac = mac(far, FAR)?;
    let steps = ends.map(|[_, far]| introduction(far, &mac, near));
    Change::new(Sign::None, steps).make(lab)
}
