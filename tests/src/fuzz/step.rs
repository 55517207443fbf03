//! What happens in a sequence, one step after the other, and the text in which a sequence is printed
//! and pasted back as a regression.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};

use super::model::Colors;
use super::model::cut::{Action, Hold};
use super::model::route::Told;
use super::model::tables::Table;
use super::model::types::{Entry, Side, State, Tuple};

/// One step. Ticks in it are relative to the time at which it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame comes in.
    Packet {
        /// Name of the interface.
        ingress: &'static str,
        /// Its bytes.
        frame: Vec<u8>,
    },
    /// Active and base colors of all services, in their order.
    Colors(Vec<Colors>),
    /// All flows become older by this many ticks.
    Age(u32),
    /// An entry appears; its ticks say how long ago.
    Plant(Table, Tuple, Entry),
    /// Whatever lies at this 5-tuple in the LRU is evicted.
    Evict(Tuple),
    /// The next slots of the sweep's ring hold this flow.
    Crowd(Tuple),
    /// Flows that may be recorded, and ICMP errors sent of each kind (time to live over, too large), in a
    /// window from now on.
    Caps([u32; 3]),
    /// An order to cut the flows of a backend, from a tick on that is so long ago, or is to come.
    Cut(u32, Action, i32),
    /// A pause of the listener of a backend, for so many ticks.
    Hold(u32, Hold, i32),
    /// A backend is ejected, or is so no more.
    Eject(u32, bool),
    /// The program is told of an interface.
    Tell(&'static str, Told),
    /// The agent applies a variant of the configuration.
    Apply(usize),
}

/// Names of the node's interfaces.
pub const INTERFACES: [&str; 4] = ["c1", "c2", "b", "g"];

const ACTIONS: [(&str, Action); 4] = [
    ("none", Action::None),
    ("reset", Action::Reset),
    ("move", Action::Move),
    ("reset-answered", Action::ResetAnswered),
];

const HOLDS: [(&str, Hold); 3] = [
    ("none", Hold::None),
    ("fresh", Hold::Fresh),
    ("all", Hold::All),
];

const STATES: [(&str, State); 6] = [
    ("cut", State::Cut),
    ("unanswered", State::Unanswered),
    ("answered", State::Answered),
    ("established", State::Established),
    ("closing", State::Closing),
    ("refused", State::Refused),
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet { ingress, frame } => write!(f, "{ingress} {}", hex(frame)),
            Self::Colors(colors) => {
                f.write_str("colors")?;
                let letter = |color| if color == 0 { 'b' } else { 'g' };
                colors.iter().try_for_each(|it| {
                    let (active, base) = (letter(it.active), letter(it.base));
                    write!(f, " {active}{base}{}", it.split)
                })
            }
            Self::Age(ticks) => write!(f, "age {ticks}"),
            Self::Plant(table, at, entry) => plant(f, *table, at, entry),
            Self::Evict(at) => write!(f, "evict {} {} {}", at.src, at.dst, at.protocol),
            Self::Crowd(at) => write!(f, "crowd {} {} {}", at.src, at.dst, at.protocol),
            Self::Caps([flows, late, large]) => write!(f, "caps {flows} {late} {large}"),
            Self::Cut(backend, action, ago) => {
                let known = ACTIONS.iter().find(|(_, it)| it == action);
                let name = known.map_or("", |(name, _)| name);
                write!(f, "cut {backend} {name} {ago}")
            }
            Self::Eject(backend, is_out) => {
                write!(f, "eject {backend} {}", if *is_out { "out" } else { "in" })
            }
            Self::Hold(backend, hold, left) => {
                let known = HOLDS.iter().find(|(_, it)| it == hold);
                let name = known.map_or("", |(name, _)| name);
                write!(f, "hold {backend} {name} {left}")
            }
            Self::Tell(interface, told) => tell(f, interface, *told),
            Self::Apply(variant) => write!(f, "apply {variant}"),
        }
    }
}

fn tell(f: &mut fmt::Formatter<'_>, interface: &str, told: Told) -> fmt::Result {
    write!(f, "tell {interface}")?;
    if let Some((parent, id)) = told.vlan {
        write!(f, " vlan {} {id}", INTERFACES[parent])?;
    }
    if let Some(master) = told.master {
        write!(f, " master {}", INTERFACES[master])?;
    }
    let flags = [
        (told.no_redirect, " no_redirect"),
        (told.no_transmit, " no_transmit"),
        (told.generic, " generic"),
    ];
    let mut set = flags.iter().filter(|(is_set, _)| *is_set);
    set.try_for_each(|(_, name)| f.write_str(name))
}

fn read_tell(words: &[&str]) -> Result<Step> {
    let (name, mut words) = words.split_first().context("no interface")?;
    let mut told = Told::default();
    if let ["vlan", parent, id, rest @ ..] = words {
        let parent = INTERFACES.iter().position(|it| it == parent);
        told.vlan = Some((parent.context("no such interface")?, id.parse()?));
        words = rest;
    }
    if let ["master", master, rest @ ..] = words {
        let master = INTERFACES.iter().position(|it| it == master);
        told.master = Some(master.context("no such interface")?);
        words = rest;
    }
    for word in words {
        match *word {
            "no_redirect" => told.no_redirect = true,
            "no_transmit" => told.no_transmit = true,
            "generic" => told.generic = true,
            other => bail!("nothing to tell is called {other}"),
        }
    }
    let known = INTERFACES.iter().find(|it| *it == name);
    Ok(Step::Tell(known.context("no such interface")?, told))
}

fn plant(f: &mut fmt::Formatter<'_>, table: Table, at: &Tuple, it: &Entry) -> fmt::Result {
    let table = if table == Table::Lru {
        "lru"
    } else {
        "established"
    };
    let side = if it.side == Side::Client {
        "client"
    } else {
        "backend"
    };
    let state = STATES.iter().find(|(_, state)| *state == it.state);
    let state = state.map_or("", |(name, _)| name);
    write!(f, "plant {table} {} {} {}", at.src, at.dst, at.protocol)?;
    write!(f, " {} {side} {state}", it.to)?;
    write!(f, " {} {} {} {}", it.syn, it.answer, it.end, it.acked)?;
    write!(f, " {} {} {} {}", it.seen, it.born, it.backend, it.service)?;
    let flags = [it.preview, it.unpinned].map(u8::from);
    write!(f, " {} {flags:?} {}", it.color, it.fin)?;
    let flags = [it.left, it.refused, it.alone].map(u8::from);
    write!(f, " {} {} {flags:?}", it.chances, it.tried)
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of [`hex`]'s text.
pub fn bytes(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|it| !it.is_whitespace())
        .map(|it| it.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .with_context(|| format!("{text:?} is not hexadecimal"))?;
    ensure!(
        digits.len().is_multiple_of(2),
        "half a byte at the end of {text:?}"
    );
    Ok(digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        read(line).with_context(|| format!("the step {line:?}"))
    }
}

fn read(line: &str) -> Result<Step> {
    let (what, rest) = line.split_once(' ').context("one word only")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    match (what, &words[..]) {
        ("colors", colors) => Ok(Step::Colors(
            colors
                .iter()
                .map(|it| read_colors(it))
                .collect::<Result<_>>()?,
        )),
        ("age", [ticks]) => Ok(Step::Age(ticks.parse()?)),
        ("apply", [variant]) => Ok(Step::Apply(variant.parse()?)),
        ("evict", [src, dst, protocol]) => Ok(Step::Evict(read_tuple(src, dst, protocol)?)),
        ("crowd", [src, dst, protocol]) => Ok(Step::Crowd(read_tuple(src, dst, protocol)?)),
        ("cut", [backend, action, ago]) => {
            let known = ACTIONS.iter().find(|(name, _)| name == action);
            let (_, action) = known.context("an unknown action")?;
            Ok(Step::Cut(backend.parse()?, *action, ago.parse()?))
        }
        ("caps", [flows, late, large]) => {
            Ok(Step::Caps([flows.parse()?, late.parse()?, large.parse()?]))
        }
        ("eject", [backend, word]) => {
            ensure!(matches!(*word, "out" | "in"), "neither out nor in: {word}");
            Ok(Step::Eject(backend.parse()?, *word == "out"))
        }
        ("hold", [backend, hold, left]) => {
            let known = HOLDS.iter().find(|(name, _)| name == hold);
            let (_, hold) = known.context("an unknown pause")?;
            Ok(Step::Hold(backend.parse()?, *hold, left.parse()?))
        }
        ("tell", words) => read_tell(words),
        ("plant", words) => read_plant(words),
        (ingress, _) => {
            let known = INTERFACES.iter().find(|it| **it == ingress);
            Ok(Step::Packet {
                ingress: known.with_context(|| format!("no step is called {ingress}"))?,
                frame: bytes(rest)?,
            })
        }
    }
}

fn read_colors(pair: &str) -> Result<Colors> {
    let color = |letter| match letter {
        Some('b') => Ok(0),
        Some('g') => Ok(1),
        _ => bail!("{pair:?} is no pair of b and g"),
    };
    let mut letters = pair.chars();
    let (active, base) = (color(letters.next())?, color(letters.next())?);
    // Without a number, as older reproductions are: no split.
    let split = match letters.as_str() {
        "" => 0,
        percent => percent.parse().context("no share in percent")?,
    };
    Ok(Colors {
        active,
        base,
        split,
    })
}

fn read_tuple(src: &str, dst: &str, protocol: &str) -> Result<Tuple> {
    Ok(Tuple {
        src: src.parse()?,
        dst: dst.parse()?,
        protocol: protocol.parse()?,
    })
}

fn read_plant(words: &[&str]) -> Result<Step> {
    let [table, src, dst, protocol, to, side, state, numbers @ ..] = words else {
        bail!("too few words");
    };
    let table = match *table {
        "lru" => Table::Lru,
        "established" => Table::Established,
        other => bail!("no table is called {other}"),
    };
    let to: SocketAddr = to.parse()?;
    let state = STATES.iter().find(|(name, _)| name == state);
    let mut numbers = numbers
        .iter()
        .map(|it| Ok(it.trim_matches(['[', ',', ']']).parse()?))
        .collect::<Result<Vec<u32>>>()?;
    // Older reproductions are of a time without second chances, or without flows that begin alone.
    if matches!(numbers.len(), 12 | 16) {
        numbers.resize(17, 0);
    }
    let numbers: [u32; 17] = numbers.try_into().ok().context("not 17 numbers")?;
    let [
        syn,
        answer,
        end,
        acked,
        seen,
        born,
        backend,
        service,
        color,
        preview,
        unpinned,
        fin,
        chances,
        tried,
        left,
        refused,
        alone,
    ] = numbers;
    let entry = Entry {
        to,
        side: if *side == "client" {
            Side::Client
        } else {
            Side::Backend
        },
        state: state.context("an unknown state")?.1,
        syn,
        answer,
        end,
        acked,
        seen,
        born,
        backend,
        service: service.try_into()?,
        color: color.try_into()?,
        preview: preview != 0,
        unpinned: unpinned != 0,
        fin,
        chances: chances.try_into()?,
        tried: tried.try_into()?,
        left: left != 0,
        refused: refused != 0,
        alone: alone != 0,
    };
    Ok(Step::Plant(table, read_tuple(src, dst, protocol)?, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_comes_back_from_its_text() -> Result<()> {
        let tuple = read_tuple("[fd00::1]:4000", "[2001:db8::1]:80", "6")?;
        let entry = Entry {
            to: "[fd00::2]:8080".parse()?,
            side: Side::Client,
            state: State::Refused,
            syn: 1,
            answer: 2,
            end: 3,
            acked: u32::MAX,
            seen: 5,
            born: 6,
            backend: 7,
            service: 8,
            color: 1,
            preview: false,
            unpinned: true,
            fin: 4_000_000_000,
            chances: 2,
            tried: 77,
            left: true,
            refused: false,
            alone: true,
        };
        let steps = [
            Step::Packet {
                ingress: "c1",
                frame: vec![0, 0xff, 0x10],
            },
            Step::Colors(vec![Colors {
                active: 0,
                base: 1,
                split: 30,
            }]),
            Step::Hold(3, Hold::All, -7),
            Step::Eject(3, true),
            Step::Eject(4, false),
            Step::Age(9),
            Step::Plant(Table::Established, tuple, entry),
            Step::Evict(tuple),
            Step::Crowd(tuple),
            Step::Caps([3, 4, 5]),
            Step::Tell(
                "g",
                Told {
                    vlan: Some((0, 7)),
                    master: Some(1),
                    no_redirect: true,
                    ..Told::default()
                },
            ),
            Step::Tell("b", Told::default()),
            Step::Cut(7, Action::Move, -4),
            Step::Apply(1),
        ];
        for step in steps {
            assert_eq!(step.to_string().parse::<Step>()?, step);
        }
        Ok(())
    }
}
