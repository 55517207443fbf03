//! Second chance (G8): a SYN that its backend refused or left unanswered, when the client repeats it.

mod bounds;
mod known;
mod late;
mod races;
mod rest;

use std::cell::Cell;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use switcher_common::flow::FlowState;
use switcher_common::heard::{Heard, UNANSWERED_TICKS};
use switcher_common::reason::Reason;
use switcher_common::scan::Table;
use switcher_common::service::{Color, PerColor};
use switcher_tests::lab::Lab;
use switcher_tests::skip_unless_lab;

use crate::packet::{ACK, PSH, Packet, RST, SYN};
use crate::rig::{Expected, Rig, first};
use crate::setup::{Kind, Listener, Setup};

/// Number of the clients' SYNs.
const SEQ: u32 = 1_000;
/// Number of the backends' SYN-ACKs.
const ANSWER: u32 = 9_000;
/// A port that each test may use.
const PORT: u16 = 4_000;

/// One service with a listener of each family for TCP, and so many backends for blue and green.
fn setup(lab: &Lab, counts: [u16; 2]) -> Setup {
    let listener = |kind: Kind| Listener {
        vip: kind.vip(lab, 0),
        backends: backends(lab, kind, counts),
        ..kind.listener(lab, 0)
    };
    let mut setup = Setup::new(vec![Kind::TCP.map(listener).to_vec()]);
    setup.limits.maglev_slots = 65_536;
    setup
}

/// On one address of each color, on ports of their own.
fn backends(lab: &Lab, kind: Kind, counts: [u16; 2]) -> PerColor<Vec<(SocketAddr, u16)>> {
    PerColor::from_fn(|color| {
        let first = kind.backends(lab, color)[0];
        let ports = 0..counts[color as usize];
        let endpoint = |more| SocketAddr::new(first.ip(), first.port() + more);
        ports.map(|more| (endpoint(more), 1)).collect()
    })
}

/// A connection that a client tries to open.
struct Attempt {
    kind: Kind,
    client: SocketAddr,
    vip: SocketAddr,
    /// Where its newest SYN went.
    backend: SocketAddr,
    color: Color,
    /// The newest backend has refused, and a time has passed since its SYN.
    is_refused: Cell<bool>,
    has_waited: Cell<bool>,
}

impl Attempt {
    /// The first SYN, which may go to any backend of `color`.
    fn begin(rig: &mut Rig, kind: Kind, port: u16, color: Color) -> Result<Self> {
        let mut attempt = Self {
            kind,
            client: rig.client(kind.family, port),
            vip: rig.vip(kind),
            backend: kind.backends(rig.lab, color)[0],
            color,
            is_refused: Cell::new(false),
            has_waited: Cell::new(false),
        };
        let run = rig.run(&attempt.syn().bytes()?)?;
        attempt.backend = rig.flow(&attempt.syn())?.backend;
        let sent = attempt
            .syn()
            .sent_to(attempt.backend, rig.link(color.name())?);
        ensure!(
            run.frame == sent.bytes()?,
            "the first SYN goes to its backend"
        );
        Ok(attempt)
    }

    fn syn(&self) -> Packet {
        first(self.kind, self.client, self.vip)
    }

    /// What the newest backend says to the SYN if nobody listens.
    fn refusal(&self) -> Packet {
        self.refusal_of(self.backend)
    }

    fn refusal_of(&self, backend: SocketAddr) -> Packet {
        Packet::tcp(backend, self.client, RST | ACK, 0, SEQ + 1)
    }

    fn syn_ack_of(&self, backend: SocketAddr) -> Packet {
        Packet::tcp(backend, self.client, SYN | ACK, ANSWER, SEQ + 1)
    }

    /// The newest backend refuses, and nobody is told.
    fn refused(&self, rig: &mut Rig) -> Result<()> {
        self.is_refused.set(true);
        let withheld = Expected::untouched(Reason::RefusalWithheld).noting(Reason::SynRefused);
        rig.expect("the refusal", &self.refusal(), &withheld)
    }

    /// The newest backend refuses, and the client is told.
    fn refused_for_good(&self, rig: &mut Rig, when: &str) -> Result<()> {
        let told = rig.to_client(&self.refusal(), self.vip)?;
        let told = told.noting(Reason::SynRefused);
        rig.expect(when, &self.refusal(), &told)
    }

    /// As if a retransmission timeout had passed since the newest SYN.
    fn wait(&self, rig: &mut Rig) -> Result<()> {
        self.has_waited.set(true);
        rig.flows.age(&self.syn(), UNANSWERED_TICKS)
    }

    /// The client repeats its SYN, which goes to another backend, of any color.
    fn moves(&mut self, rig: &mut Rig) -> Result<()> {
        let before = self.backend;
        let (run, counted) = rig.run_counted(&self.syn().bytes()?)?;
        let flow = rig.flow(&self.syn())?;
        (self.backend, self.color) = (flow.backend, flow.color);
        ensure!(
            self.backend != before,
            "{:?}: it stays at {before}",
            self.kind
        );
        let sent = self
            .syn()
            .sent_to(self.backend, rig.link(self.color.name())?);
        let mut expected = Expected::redirected(sent)
            .noting(Reason::SynRetransmit)
            .noting(Reason::SecondChance);
        if !self.is_refused.replace(false) {
            expected = expected.noting(Reason::SynUnanswered);
        }
        expected.judge(&self.syn().bytes()?, &run, &counted)?;
        ensure!(
            flow.state == FlowState::Unanswered,
            "half-open again: {flow:?}"
        );
        ensure!(flow.table == Table::Unanswered, "G7: {flow:?}");
        Ok(())
    }

    /// The client repeats its SYN, which goes to the same backend.
    fn stays(&self, rig: &mut Rig, when: &str) -> Result<()> {
        let sent = self
            .syn()
            .sent_to(self.backend, rig.link(self.color.name())?);
        let mut expected = Expected::redirected(sent).noting(Reason::SynRetransmit);
        let is_unanswered = rig.flow(&self.syn())?.state == FlowState::Unanswered;
        if !self.has_waited.replace(false) {
            rig.just_seen(&self.syn())?;
        } else if is_unanswered && !self.is_refused.get() {
            expected = expected.noting(Reason::SynUnanswered);
        }
        rig.expect(when, &self.syn(), &expected)
    }

    /// The newest backend accepts, and data goes both ways.
    fn succeeds(&self, rig: &mut Rig) -> Result<()> {
        let link = rig.link(self.color.name())?;
        let answer = self.syn_ack_of(self.backend);
        rig.expect("the SYN-ACK", &answer, &rig.to_client(&answer, self.vip)?)?;
        let ack = Packet::tcp(self.client, self.vip, ACK, SEQ + 1, ANSWER + 1);
        let sent = Expected::redirected(ack.sent_to(self.backend, link));
        rig.expect("the ACK", &ack, &sent.noting(Reason::Promoted))?;
        let request =
            Packet::tcp(self.client, self.vip, PSH | ACK, SEQ + 1, ANSWER + 1).payload(b"what?");
        let sent = Expected::redirected(request.sent_to(self.backend, link));
        rig.expect("a request", &request, &sent)?;
        let reply = Packet::tcp(self.backend, self.client, PSH | ACK, ANSWER + 1, SEQ + 6)
            .payload(b"this.");
        rig.expect("an answer", &reply, &rig.to_client(&reply, self.vip)?)
    }
}

/// What was heard of backends, which a test may change.
fn heard(rig: &Rig) -> Result<Array<MapData, Heard>> {
    let path = rig.config.agent.pin_dir.join("maps/HEARD");
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(Array::try_from)
        .with_context(|| format!("opening {}", path.display()))
}

/// Nothing was heard of any backend.
fn forget_what_was_heard(rig: &Rig) -> Result<()> {
    hear_of_all(rig, Heard::default())
}

fn hear_of_all(rig: &Rig, what: Heard) -> Result<()> {
    let mut heard = heard(rig)?;
    for backend in 0..heard.len() {
        heard.set(backend, what, 0)?;
    }
    Ok(())
}

#[test]
fn g8_a_refused_syn_goes_to_another_backend_when_it_is_repeated() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            for port in PORT..PORT + 8 {
                let mut attempt = Attempt::begin(rig, kind, port, Color::Blue)?;
                attempt.refused(rig)?;
                attempt.moves(rig)?;
                ensure!(attempt.color == Color::Blue, "the pin's color stays");
                attempt.succeeds(rig)?;
                forget_what_was_heard(rig)?;
            }
        }
        let traffic = rig.counters.traffic(1, Color::Blue)?;
        let counts = (traffic.new_flows, traffic.finished_flows);
        assert_eq!(counts, (16, 0), "a moved flow is one flow");
        Ok(())
    })
}

#[test]
fn g8_an_unanswered_syn_goes_to_another_backend_when_it_is_repeated_but_not_at_once() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let mut attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            attempt.stays(rig, "a SYN that the network sends twice")?;
            attempt.wait(rig)?;
            attempt.moves(rig)?;
            attempt.succeeds(rig)?;
        }
        Ok(())
    })
}

#[test]
fn a_flow_whose_backend_has_answered_stays_there() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            let answer = attempt.syn_ack_of(attempt.backend);
            rig.expect(
                "the SYN-ACK",
                &answer,
                &rig.to_client(&answer, attempt.vip)?,
            )?;
            attempt.wait(rig)?;
            attempt.stays(rig, "the SYN-ACK was lost beyond the node")?;
            let rst = Packet::tcp(attempt.backend, attempt.client, RST, ANSWER + 1, 0);
            rig.expect("a RST after it", &rst, &rig.to_client(&rst, attempt.vip)?)?;
            attempt.wait(rig)?;
            attempt.stays(rig, "it has refused after it had answered")?;
        }
        Ok(())
    })
}

#[test]
fn only_a_rst_that_answers_the_syn_is_withheld() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    Rig::with(&lab, &setup(&lab, [2, 2]), |rig| {
        for kind in Kind::TCP {
            let attempt = Attempt::begin(rig, kind, PORT, Color::Blue)?;
            for (what, flags, ack) in [
                ("it acknowledges nothing", RST, SEQ + 1),
                ("another SYN", RST | ACK, SEQ),
                ("far beyond the SYN", RST | ACK, SEQ + 2_000),
            ] {
                let rst = Packet {
                    flags,
                    ack,
                    ..attempt.refusal()
                };
                rig.expect(what, &rst, &rig.to_client(&rst, attempt.vip)?)?;
                let state = rig.flow(&attempt.syn())?.state;
                ensure!(state == FlowState::Unanswered, "{what}: {state:?}");
                attempt.stays(rig, what)?;
            }
            ensure!(
                heard(rig)?
                    .iter()
                    .all(|it| it.is_ok_and(|it| it.refused == 0))
            );
            attempt.refused(rig)?;
            ensure!(
                heard(rig)?
                    .iter()
                    .any(|it| it.is_ok_and(|it| it.refused != 0))
            );
            forget_what_was_heard(rig)?;
        }
        Ok(())
    })
}
