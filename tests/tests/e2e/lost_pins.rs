//! G9: connections whose pins are lost go on, whichever end speaks first.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use switcher_common::{
    flow::Side,
    service::{Color, Protocol},
};
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, service_in},
    skip_unless_lab,
    traffic::Conversation,
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, sync::watch};

use crate::{
    mixed::LIMIT,
    pins::{Pins, Tuple},
};

const PORT: u16 = 20_000;
/// Port of the servers that send downloads.
const DOWNLOAD_PORT: u16 = 7_500;
/// What is sent between two pauses, in bytes.
const PIECE: usize = 200_000;
const PIECES: usize = 3;

fn download() -> LabService {
    LabService {
        name: "download",
        vip: 0,
        port: 8_000,
        protocols: &[Protocol::Tcp],
        backend_port: DOWNLOAD_PORT,
        options: String::new(),
    }
}

/// Byte `at` of every download.
fn byte(at: usize) -> u8 {
    // A prime period, so that no lost segment goes unseen.
    u8::try_from(at % 251).unwrap_or_default()
}

/// Servers on every backend address. Each sends as many pieces as `allowed` says, then closes.
fn serve(lab: &Lab, allowed: &watch::Receiver<usize>) -> Result<()> {
    for color in Color::ALL {
        for family in Family::ALL {
            for address in lab.backends(color, family) {
                let allowed = allowed.clone();
                let host = lab.color(color);
                let listener = host
                    .block_on(TcpListener::bind((address, DOWNLOAD_PORT)))
                    .with_context(|| format!("serving downloads at {address}"))?;
                host.spawn(async move {
                    while let Ok((mut stream, _)) = listener.accept().await {
                        let mut allowed = allowed.clone();
                        tokio::spawn(async move {
                            let content: Vec<u8> = (0..PIECES * PIECE).map(byte).collect();
                            for (number, piece) in content.chunks(PIECE).enumerate() {
                                allowed.wait_for(|pieces| *pieces > number).await.ok()?;
                                stream.write_all(piece).await.ok()?;
                            }
                            Some(())
                        });
                    }
                });
            }
        }
    }
    Ok(())
}

/// A download that runs.
struct Download {
    conversation: Conversation,
    tuple: Tuple,
    at: usize,
}

impl Download {
    fn start(lab: &Lab, family: Family) -> Result<Self> {
        let vip = download().target(lab, family);
        let address: IpAddr = lab.topology().links[0].far_addresses(family)[0];
        let conversation = Conversation::open(lab.client(), PORT, vip, LIMIT)?;
        Ok(Self {
            conversation,
            tuple: Tuple::tcp(SocketAddr::new(address, PORT), vip),
            at: 0,
        })
    }

    fn read_piece(&mut self) -> Result<()> {
        let mut piece = vec![0; PIECE];
        self.conversation
            .stream()
            .read_exact(&mut piece)
            .with_context(|| format!("downloading on from byte {}", self.at))?;
        let sent = piece.iter().zip(self.at..).all(|(it, at)| *it == byte(at));
        ensure!(sent, "wrong bytes between {} and {PIECE} further", self.at);
        self.at += PIECE;
        Ok(())
    }

    /// Reads to the end, which must come after all pieces.
    fn finish(mut self) -> Result<()> {
        while self.at < PIECES * PIECE {
            self.read_piece()?;
        }
        self.conversation.close()
    }

    /// Waits until the client has acknowledged all it got, and takes the pins away then.
    fn lose_pins(&self, node: &Node<'_>, pins: &mut Pins) -> Result<()> {
        let forward = pins.of(self.tuple)?.context("no pin of a download")?;
        let replies = Tuple::tcp(forward.rewritten, self.tuple.from);
        let is_silent = || -> Result<bool> {
            let both = (pins.of(self.tuple)?, pins.of(replies)?);
            let (forward, reverse) = (both.0.context("no pin")?, both.1.context("no pin")?);
            ensure!(reverse.side == Side::Reverse, "{reverse:?}");
            Ok(forward.acked == reverse.next_seq)
        };
        node.wait_until("a client that has said all", |_| {
            is_silent().unwrap_or_default()
        })?;
        pins.lose(self.tuple)
    }
}

/// The switch while pins are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    BeforeAFlip,
    DuringTheDrain,
    AfterTheDrain,
}

impl When {
    const ALL: [Self; 3] = [Self::BeforeAFlip, Self::DuringTheDrain, Self::AfterTheDrain];

    fn arrange(self, node: &Node<'_>, service: &str) -> Result<()> {
        match self {
            Self::BeforeAFlip => Ok(()),
            Self::DuringTheDrain => node.flip(&[service], Color::Green).map(drop),
            Self::AfterTheDrain => {
                let flip = [
                    "flip",
                    service,
                    "--to",
                    "green",
                    "--drain-timeout",
                    "100ms",
                    "--wait",
                ];
                let (reply, _) = node.json(&flip)?;
                ensure!(reply["changed"] == true, "{reply}");
                let base = node.service(service)?["base"].clone();
                ensure!(base == "green", "the drain is not over: base is {base}");
                Ok(())
            }
        }
    }
}

/// No flow of `service` is in flight: each has been seen to its end.
fn all_ended(node: &Node<'_>, service: &str) -> Result<()> {
    node.wait_until("nothing in flight", |status| {
        let flows = &service_in(status, service)["in_flight"];
        flows["blue"] == 0 && flows["green"] == 0
    })?;
    Ok(())
}

#[test]
fn g9_a_download_goes_on_when_its_pins_are_lost_while_the_client_is_silent() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for when in When::ALL {
        let lab = Lab::builder().build()?;
        let (allow, allowed) = watch::channel(1);
        serve(&lab, &allowed)?;
        let node = Node::start(&lab, &[download()])?;
        let mut pins = Pins::open(&lab)?;
        let mut downloads = Vec::new();
        for family in Family::ALL {
            let mut it = Download::start(&lab, family)?;
            it.read_piece()?;
            downloads.push(it);
        }
        when.arrange(&node, "download")?;
        let mut served = Vec::new();
        for it in &downloads {
            served.push(pins.of(it.tuple)?.context("no pin")?.rewritten);
            it.lose_pins(&node, &mut pins)?;
        }
        allow.send(2)?;
        for (it, backend) in downloads.iter_mut().zip(served) {
            it.read_piece().with_context(|| format!("{when:?}"))?;
            let pin = pins.of(it.tuple)?.context("not pinned again")?;
            ensure!(
                (pin.color, pin.rewritten) == (Color::Blue, backend),
                "{when:?}: served by {backend}, pinned again as {pin:?}"
            );
        }
        ensure!(node.packets("reply_repinned")? >= 2, "{when:?}");
        allow.send(PIECES)?;
        for it in downloads {
            it.finish().with_context(|| format!("{when:?}"))?;
        }
        all_ended(&node, "download").with_context(|| format!("{when:?}"))?;
    }
    Ok(())
}

#[test]
fn g9_a_connection_goes_on_when_its_pin_is_lost_and_the_client_speaks_first() -> Result<()> {
    skip_unless_lab!(Ok(()));
    for when in [When::BeforeAFlip, When::DuringTheDrain] {
        let (lab, _backends) = crate::lab()?;
        let stream = LabService::stream(1);
        let node = Node::start(&lab, std::slice::from_ref(&stream))?;
        let mut pins = Pins::open(&lab)?;
        let mut all = Vec::new();
        for family in Family::ALL {
            let vip = stream.target(&lab, family);
            let address: IpAddr = lab.topology().links[0].far_addresses(family)[0];
            for port in PORT..PORT + 20 {
                let mut conversation = Conversation::open(lab.client(), port, vip, LIMIT)?;
                conversation.ask()?;
                all.push((
                    conversation,
                    Tuple::tcp(SocketAddr::new(address, port), vip),
                ));
            }
        }
        when.arrange(&node, "stream")?;
        // Past a delayed ACK, there is nothing that either end still has to say.
        std::thread::sleep(Duration::from_millis(100));
        for (_, tuple) in &all {
            pins.lose(*tuple)?;
        }
        for (mut conversation, tuple) in all {
            // Another backend than before would answer by a RST.
            conversation
                .ask()
                .with_context(|| format!("{when:?}: {tuple:?}"))?;
            conversation.close()?;
        }
        ensure!(node.packets("unpinned")? >= 40, "{when:?}");
        all_ended(&node, "stream").with_context(|| format!("{when:?}"))?;
    }
    Ok(())
}
