//! Source ports that are used again, and used twice.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Host, Lab},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Backends, Conversation, Identity},
};

/// How long a step of a connection may take; a SYN is sent again after one, three and seven seconds.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a connection attempt is made that must not succeed.
const IN_VAIN: Duration = Duration::from_millis(300);
const FIRST_PORT: u16 = 20_000;
/// Ports that are used twice at a time: both flows of one choose the same of two backends at first
/// for about every other port.
const PORTS: u16 = 40;

/// How a connection comes to its end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By FINs of both sides.
    Closed,
    /// By a RST of the client.
    Aborted,
    /// The client's machine crashed: its backend still believes in it.
    Vanished,
}

impl End {
    const ALL: [Self; 3] = [Self::Closed, Self::Aborted, Self::Vanished];

    fn of(self, conversation: Conversation) -> Result<()> {
        match self {
            Self::Closed => conversation.close(),
            Self::Aborted => conversation.abort(),
            Self::Vanished => conversation.vanish(),
        }
    }
}

fn open(host: &Host, port: u16, target: SocketAddr) -> Result<(Conversation, Identity)> {
    let mut conversation = Conversation::open(host, port, target, LIMIT)?;
    let by = conversation.ask()?;
    Ok((conversation, by))
}

#[test]
fn g8_a_source_port_that_is_used_again_after_a_flip_gets_the_new_color() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    // A client that has so many connections keeps no TIME_WAIT, so that its ports are free at once.
    lab.client()
        .set_sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
    let stream = LabService::stream(1);
    let node = Node::start(&lab, std::slice::from_ref(&stream))?;
    let mut cases = Vec::new();
    for (family, first) in Family::ALL.into_iter().zip([FIRST_PORT, FIRST_PORT + 100]) {
        for (end, port) in End::ALL.into_iter().zip(first..) {
            cases.push((stream.target(&lab, family), end, port));
        }
    }
    let mut live = Vec::new();
    for &(target, end, port) in &cases {
        let (conversation, by) = open(lab.client(), port, target)?;
        ensure!(by.color == Color::Blue, "{end:?}: {by}");
        live.push((end, conversation));
    }
    for (end, conversation) in live {
        end.of(conversation)?;
    }
    node.flip(&["stream"], Color::Green)?;
    // At the same time, as a crashed client's port needs three SYNs.
    let again = |(target, end, port): (SocketAddr, End, u16)| {
        let (_conversation, by) = open(lab.client(), port, target)
            .with_context(|| format!("port {port} to {target}, used again after {end:?}"))?;
        ensure!(
            by.color == Color::Green,
            "port {port} to {target}, used again after {end:?}, was served by {by}"
        );
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads = cases.iter().map(|&case| scope.spawn(move || again(case)));
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .try_for_each(|it| it.join().expect("a panic is a failure of its own"))
    })
}

/// Two services with the same backends.
fn twins(make: impl Fn(u8) -> LabService) -> [LabService; 2] {
    let first = make(1);
    let second = LabService {
        name: "second",
        ..make(2)
    };
    [first, second]
}

#[test]
fn one_source_port_to_two_vips_that_share_their_backends_carries_both_over_a_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let services = twins(LabService::stream);
    let node = Node::start(&lab, &services)?;
    let mut pairs = Vec::new();
    for family in Family::ALL {
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            let [first, second] = services.each_ref().map(|it| it.target(&lab, family));
            let (one, by_one) = open(lab.client(), port, first)?;
            let (two, by_two) = open(lab.client(), port, second)?;
            ensure!(
                by_one != by_two,
                "port {port}: {by_one} cannot tell the two connections apart"
            );
            pairs.push([one, two]);
        }
    }
    let carry_data = |pairs: &mut Vec<[Conversation; 2]>| {
        // Interleaved, so that each direction of each connection has the other one's before it.
        pairs.iter_mut().flatten().try_for_each(|conversation| {
            let by = conversation.ask()?;
            ensure!(by.color == Color::Blue, "moved to {by}");
            Ok(())
        })
    };
    carry_data(&mut pairs)?;
    node.flip(&["stream"], Color::Green)?;
    carry_data(&mut pairs)?;
    node.flip(&["second"], Color::Green)?;
    carry_data(&mut pairs)
}

#[test]
fn a_source_port_is_refused_a_second_vip_only_while_no_backend_can_tell_them_apart() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().backends_per_color(1).build()?;
    let _backends = Backends::start(&lab)?;
    let services = twins(LabService::stream);
    let node = Node::start(&lab, &services)?;
    for family in Family::ALL {
        let [first, second] = services.each_ref().map(|it| it.target(&lab, family));
        let (mut one, by) = open(lab.client(), FIRST_PORT, first)?;
        let dropped = node.packets("reply_tuple_taken")?;
        let refused = Conversation::open(lab.client(), FIRST_PORT, second, IN_VAIN);
        ensure!(refused.is_err(), "{family:?}: its only backend is taken");
        ensure!(
            node.packets("reply_tuple_taken")? > dropped,
            "{family:?}: refused, but not counted"
        );
        ensure!(one.ask()? == by, "the first one goes on");
        one.abort()?;
        // Its RST is on its way.
        node.wait_until("no flow of the first one", |status| {
            status["services"]
                .as_array()
                .is_some_and(|all| all.iter().all(|it| it["in_flight"]["blue"] == 0))
        })?;
        let (two, _) = open(lab.client(), FIRST_PORT, second)?;
        two.abort()?;
    }
    Ok(())
}

#[test]
fn one_udp_socket_that_talks_to_two_vips_that_share_their_backends_hears_both() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let services = twins(LabService::datagram);
    let node = Node::start(&lab, &services)?;
    let mut sockets = Vec::new();
    for family in Family::ALL {
        let any: SocketAddr = match family {
            Family::V4 => "0.0.0.0:0".parse()?,
            Family::V6 => "[::]:0".parse()?,
        };
        for _ in 0..PORTS / 2 {
            let socket = lab.client().run(|| UdpSocket::bind(any))?;
            socket.set_read_timeout(Some(LIMIT))?;
            sockets.push((
                socket,
                services.each_ref().map(|it| it.target(&lab, family)),
            ));
        }
    }
    let hear_both = |number: u64| {
        for (socket, targets) in &sockets {
            for target in targets {
                socket.send_to(&number.to_be_bytes(), target)?;
            }
            let mut heard = Vec::new();
            for _ in targets {
                let mut answer = [0; 16];
                let (length, from) = socket.recv_from(&mut answer)?;
                let [question, tag] = [&answer[..8], &answer[8..]];
                ensure!(
                    length == 16 && question == number.to_be_bytes(),
                    "{length} bytes of {from} answer question {number}: {answer:?}"
                );
                let by = Identity::from_tag(u64::from_be_bytes(tag.try_into()?))?;
                ensure!(by.color == Color::Blue, "{from} moved to {by}");
                heard.push(from);
            }
            heard.sort();
            ensure!(heard == targets, "heard {heard:?}, asked {targets:?}");
        }
        Ok(())
    };
    hear_both(1)?;
    node.flip(&["datagram", "second"], Color::Green)?;
    hear_both(2)
}
