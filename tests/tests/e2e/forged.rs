//! G2, G7: packets in somebody else's name. Whoever does not know a connection's numbers ends no
//! connection and moves no pin.

use anyhow::{Context, Result, ensure};
use switcher_common::{
    flow::{ACK, FIN, RST, SYN, Side},
    scan::Table,
    service::Color,
};
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node},
    skip_unless_lab,
    traffic::{Client, Conversation, Load, LongLived, RawSender, challenge_acks},
};

use crate::{
    forge::Forged,
    mixed::LIMIT,
    pins::{Pin, Pins},
};

/// Connections of each family that carry data all the time.
const BUSY: usize = 20;
/// Connections of each family that are silent meanwhile.
const SILENT: u16 = 10;
const FIRST_PORT: u16 = 20_000;

/// How far forged numbers are from the next one that is expected. Odd, so that data never gets
/// there: the servers' and clients' messages are multiples of eight bytes.
const OFF: [u32; 5] = [
    // Before all that was sent.
    0_u32.wrapping_sub(140_001),
    // Inside the receiver's window: answered by a challenge.
    3,
    // Beyond the window, and beyond what one segment may claim to lie ahead.
    140_001,
    // Far away in both directions.
    (1 << 30) + 1,
    (3 << 30) + 1,
];

/// What somebody sends who knows the addresses and ports of a connection, and about where its
/// numbers are.
fn forgeries(pin: &Pin) -> Vec<Forged> {
    let mut all = Vec::new();
    for off in OFF {
        let seq = pin.next_seq.wrapping_add(off);
        let with = |flags, payload| Forged {
            flags,
            seq,
            ack: pin.acked,
            payload,
        };
        all.extend([with(RST, &b""[..]), with(RST | ACK, b""), with(SYN, b"")]);
        all.push(with(SYN | ACK, b""));
        // TCP itself believes what is inside its window.
        if off != 3 {
            all.extend([with(FIN | ACK, &b""[..]), with(ACK, b"forged")]);
        }
    }
    all
}

/// Connections of every kind on blue.
struct Victims {
    busy: Vec<Load>,
    silent: Vec<Conversation>,
}

impl Victims {
    fn connect(lab: &Lab) -> Result<Self> {
        let (mut busy, mut silent) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            let target = LabService::stream(1).target(lab, family);
            let options = LongLived {
                connections: BUSY,
                ..LongLived::default()
            };
            let load = Client::new(lab.client()).long_lived(target, options);
            load.wait_until(LIMIT, |stats| stats.fresh.len() == BUSY)?;
            busy.push(load);
            for port in FIRST_PORT..FIRST_PORT + SILENT {
                let mut conversation = Conversation::open(lab.client(), port, target, LIMIT)?;
                conversation.ask()?;
                silent.push(conversation);
            }
        }
        Ok(Self { busy, silent })
    }

    /// The busy connections carry more data.
    fn go_on(&self) -> Result<()> {
        for load in &self.busy {
            let before = load.snapshot().answered;
            load.wait_until(LIMIT, |stats| stats.answered > before + 200)?;
        }
        Ok(())
    }

    fn are_unharmed(self) -> Result<()> {
        self.go_on()?;
        for mut conversation in self.silent {
            let by = conversation.ask()?;
            ensure!(by.color == Color::Blue, "a silent connection moved to {by}");
            conversation.close()?;
        }
        for load in self.busy {
            let stats = load.finish();
            ensure!(stats.is_clean(), "{:?}", stats.samples);
            ensure!(stats.per_color.green == 0, "a connection moved");
        }
        Ok(())
    }
}

/// Forges packets of `side` of every connection, sent by `attacker`.
fn attack(attacker: &RawSender, pins: &Pins, side: Side) -> Result<()> {
    for (tuple, pin) in pins.all(Table::Established)? {
        if pin.side != side {
            continue;
        }
        for forged in forgeries(&pin) {
            attacker.send(&forged.between(tuple.from, tuple.to)?)?;
        }
    }
    Ok(())
}

#[test]
fn g2_forged_rsts_syns_fins_and_data_end_no_connection_and_move_no_pin_over_a_flip() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = Node::start(&lab, &[LabService::stream(1)])?;
    let victims = Victims::connect(&lab)?;
    let pins = Pins::open(&lab)?;
    let before = pins.held()?;
    ensure!(
        before.len() == 2 * 2 * (BUSY + usize::from(SILENT)),
        "two entries for each connection, not {}",
        before.len()
    );
    // One on the clients' side of the node, one among the backends.
    let attackers = [
        RawSender::open(lab.client2())?,
        RawSender::open(lab.green())?,
    ];
    for round in ["before the flip", "during its drain"] {
        for (side, victim) in [(Side::Forward, lab.blue()), (Side::Reverse, lab.client())] {
            let challenges = challenge_acks(victim)?;
            for attacker in &attackers {
                attack(attacker, &pins, side)?;
                victims.go_on()?;
                pins.still_hold(&before)
                    .with_context(|| format!("{round}: forged {side:?} packets"))?;
            }
            ensure!(
                challenge_acks(victim)? > challenges,
                "{round}: no forged {side:?} packet has reached host {}",
                victim.name()
            );
        }
        if round == "before the flip" {
            node.flip(&["stream"], Color::Green)?;
        }
    }
    victims.are_unharmed()
}
