//! `kill -9` of the agent at every step of a request, one after the other: what the next agent finds
//! is the state before the request or the state after it, in all services, and no flow notices (G4, G5).

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::{LabService, Node, configuration, service_in},
    skip_unless_lab,
    steps::{Step, Watch},
    traffic::Conversation,
};

use crate::{mixed::LIMIT, reconfigured::shop};

/// Two services, whose backends say who they are.
const SERVICES: [&str; 2] = ["stream", "other"];

fn service(name: &str) -> LabService {
    match name {
        "other" => LabService {
            name: "other",
            ..LabService::stream(0)
        },
        _ => LabService::stream(1),
    }
}

/// More rounds than any request has steps: a request whose steps never come to an end.
const MOST_ROUNDS: usize = 60;

/// A request, and the state that it is made in.
struct Request {
    /// The command line. `ACTIVE` and `STANDBY` are the colors of the services before it, `BACKEND` one of the active
    /// color's of `stream`, and `FILE` a configuration that does not run.
    arguments: &'static [&'static str],
    /// Command lines that lead to the state before it, from one in which nothing is going on.
    prepare: &'static [&'static [&'static str]],
    /// What becomes of a connection to `stream` that was made before all that.
    flow: Flow,
    /// The threads whose steps count.
    threads: &'static [&'static str],
    /// Steps that it must have come to.
    through: Vec<&'static str>,
}

/// A connection from before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// It lives through everything.
    Lives,
    /// It ends by itself while the request is made, and with it the drain.
    Ends,
    /// The request may cut it.
    IsCut,
}

/// Steps by which a state comes to disk.
const TO_DISK: [&str; 6] = [
    "writer: make state/state.json.new",
    "writer: write state/state.json.new",
    "writer: fsync state/state.json.new",
    "writer: rename state/state.json.new",
    "writer: fsync state",
    "writer: write state/history.jsonl",
];

/// Threads that make changes.
const CHANGING: &[&str] = &["core", "writer"];

/// Steps by which a switch state becomes visible.
const STORE: [&str; 2] = [
    "core: bpf MAP_UPDATE_BATCH spare SWITCH",
    "core: bpf MAP_UPDATE_ELEM SWITCH",
];

/// The node, and flows that live through all of it.
struct Rounds<'lab> {
    lab: &'lab Lab,
    node: Node<'lab>,
    watch: Arc<Watch>,
    lasting: Vec<(&'static str, Conversation)>,
}

impl<'lab> Rounds<'lab> {
    /// A node on which every service was flipped once.
    fn start(lab: &'lab Lab) -> Result<Self> {
        let watch = Watch::of_agent(vec![lab.dir().join("state"), lab.bpffs().to_owned()]);
        let text = configuration(lab, &SERVICES.map(service));
        let mut node = Node::configured(lab, &text)?;
        node.watch(watch.clone());
        node.start_agent()?;
        let rounds = Self {
            lab,
            node,
            watch,
            lasting: Vec::new(),
        };
        rounds.run(&["flip", "stream", "other", "--to", "green"])?;
        Ok(rounds)
    }

    /// Opens the flows that must live on: to each of `services`, of each family, on each color, so that
    /// no drain of these ends by itself.
    fn hold(&mut self, services: &[&'static str]) -> Result<()> {
        for _ in Color::ALL {
            self.run_filled(&["flip", "stream", "other", "--to", "STANDBY"])?;
            for name in services {
                for family in Family::ALL {
                    self.lasting.push((name, self.dial(name, family)?));
                }
            }
        }
        Ok(())
    }

    fn dial(&self, name: &str, family: Family) -> Result<Conversation> {
        let client = self.lab.client();
        let target = service(name).target(self.lab, family);
        let mut conversation = Conversation::open(client, client.ports().next(), target, LIMIT)?;
        conversation.ask()?;
        Ok(conversation)
    }

    /// Who serves a fresh connection to `name`, the same in both families.
    fn serves(&self, name: &str) -> Result<Color> {
        let mut colors = BTreeSet::new();
        for family in Family::ALL {
            let mut conversation = self.dial(name, family)?;
            colors.insert(conversation.ask()?.color.name());
            conversation.close()?;
        }
        ensure!(colors.len() == 1, "{name} is served by {colors:?}");
        Ok(if colors.contains("blue") {
            Color::Blue
        } else {
            Color::Green
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<Value> {
        let (reply, code) = self.node.json(arguments)?;
        ensure!(code == 0, "`switcher {}`: {reply}", arguments.join(" "));
        Ok(reply)
    }

    /// The command line of a request in the state that `status` tells.
    fn filled(&self, arguments: &[&str], status: &Value) -> Vec<String> {
        let of = |field: &str| service_in(status, "stream")[field].as_str().unwrap_or("?");
        let (active, standby) = (of("active"), of("standby"));
        let color = if active == "blue" {
            Color::Blue
        } else {
            Color::Green
        };
        let backend = self.lab.backends(color, Family::V4)[0];
        let backend = format!("{backend}:{}", service("stream").backend_port);
        let file = file_of(self.lab, !has_shop(status));
        let word = |word: &&str| match *word {
            "ACTIVE" => active.to_owned(),
            "STANDBY" => standby.to_owned(),
            "BACKEND" => backend.clone(),
            "FILE" => file.display().to_string(),
            other => other.to_owned(),
        };
        arguments.iter().map(word).collect()
    }

    fn run_filled(&self, arguments: &[&str]) -> Result<Value> {
        let words = self.filled(arguments, &self.node.status()?);
        self.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Ends whatever is going on.
    fn calm(&self) -> Result<()> {
        let status = self.node.status()?;
        for name in SERVICES {
            let it = service_in(&status, name);
            if !it["confirm_until_at"].is_null() {
                self.run(&["confirm", name])?;
            }
            if it["pauses"] != json!([]) {
                self.run(&["resume", name])?;
            }
            for (color, backend) in drained(it) {
                self.run(&["backend", "resume", name, &color, &backend])?;
            }
        }
        self.end_drains()
    }

    fn end_drains(&self) -> Result<()> {
        let status = self.node.status()?;
        for name in SERVICES {
            let drain = &service_in(&status, name)["drain"];
            if drain.is_object() && drain["ended"].is_null() {
                // It may be ending by itself just now.
                self.node.json(&["drain", name, "--finish-now", "keep"])?;
            }
        }
        self.node.wait_until("the drains end", |status| {
            let mut drains = SERVICES
                .map(|name| &service_in(status, name)["drain"])
                .into_iter();
            // The end of a removal is the core's own, and comes when it comes.
            let removed = status["removed"].as_array();
            removed.is_none_or(Vec::is_empty)
                && drains.all(|drain| drain.is_null() || !drain["ended"].is_null())
        })?;
        Ok(())
    }

    /// Carries a request out again and again, and kills the agent each time at another step, until
    /// there is none left.
    fn at_every_step(&mut self, request: &Request) -> Result<()> {
        self.watch.forget();
        let (_, reference) = self.round(request, false)?;
        let mut killed = Vec::new();
        loop {
            ensure!(killed.len() < MOST_ROUNDS, "no end of steps: {killed:#?}");
            let (at, found) = self.round(request, true)?;
            let is_before = found.after == found.before && !found.is_answered;
            ensure!(
                is_before || found.after == reference.after,
                "killed at {at:?} (after {killed:#?}): neither the state before nor the one after: {:#}; after it would be {:#}",
                found.after,
                reference.after
            );
            let Some(at) = at else { break };
            killed.push(at.to_string());
        }
        for step in &request.through {
            ensure!(
                killed.iter().any(|it| it.starts_with(step)),
                "never killed at {step:?}, only at {killed:#?}"
            );
        }
        println!("{}: killed at {killed:#?}", request.arguments.join(" "));
        Ok(())
    }

    /// One round. Without `killing`, or when there is no step left at which to kill, the agent is
    /// killed after its answer.
    fn round(&mut self, request: &Request, killing: bool) -> Result<(Option<Step>, Found)> {
        self.calm()?;
        let mut flow = None;
        if request.flow != Flow::Lives {
            flow = Some(self.dial("stream", Family::V4)?);
        }
        for arguments in request.prepare {
            self.run_filled(arguments)?;
        }
        let before = self.node.status()?;
        let words = self.filled(request.arguments, &before);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if killing {
            self.watch.arm(request.threads);
        }
        if request.flow == Flow::Ends {
            flow.take().map(Conversation::close).transpose()?;
        }
        let asked = self.node.end_of(self.node.start_cli(&words)?)?;
        let outcome = self.watch.disarm();
        let reply = asked.object()?;
        let changed = reply.get("changed");
        let is_answered = asked.code == 0 && changed != Some(&json!(false));
        let is_unknown = asked.code == 6 && changed.is_none_or(Value::is_null);
        ensure!(
            is_answered || (is_unknown && outcome.killed.is_some()),
            "killed at {:?}: {asked:?}",
            outcome.killed
        );
        self.node.kill_agent()?;
        let context = || format!("killed at {:?}", outcome.killed);
        let after = self.look(request).with_context(context)?;
        let found = Found {
            is_answered,
            before: facts(&before, &before),
            after: facts(&after, &before),
        };
        Ok((outcome.killed, found))
    }

    /// What is there after a kill: of the packets, then of the next agent.
    fn look(&mut self, request: &Request) -> Result<Value> {
        let mut served = Vec::new();
        if request.arguments[0] != "pause" {
            for name in SERVICES {
                served.push((name, self.serves(name)?));
            }
        }
        self.node.start_agent()?;
        let status = self.node.status()?;
        for (name, color) in served {
            let it = service_in(&status, name);
            ensure!(
                it["active"] == color.name(),
                "without an agent {color:?} served fresh connections of {name}, then {it}"
            );
        }
        for (name, conversation) in &mut self.lasting {
            let asked = conversation.ask();
            asked.with_context(|| format!("a connection to {name} from before"))?;
        }
        if request.flow == Flow::Ends {
            self.node
                .wait_until("the drain goes on and ends", |status| {
                    let it = service_in(status, "stream");
                    it["drain"]["ended"] == "drained" && it["base"] == it["active"]
                })?;
        }
        Ok(status)
    }
}

/// The configuration with or without the service `shop`.
fn file_of(lab: &Lab, with_shop: bool) -> PathBuf {
    lab.dir().join(if with_shop {
        "with.toml"
    } else {
        "without.toml"
    })
}

fn has_shop(status: &Value) -> bool {
    !service_in(status, "shop").is_null()
}

/// What a round found.
struct Found {
    /// The request was answered before the kill.
    is_answered: bool,
    before: Value,
    after: Value,
}

/// Backends that are drained by hand, with their colors.
fn drained(service: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for listener in service["listeners"].as_array().into_iter().flatten() {
        for color in Color::ALL {
            let backends = listener["backends"][color.name()].as_array();
            for backend in backends.into_iter().flatten() {
                if backend["drained"] == true {
                    let address = backend["address"].as_str().unwrap_or_default();
                    let endpoint = format!("{address}:{}", backend["port"]);
                    found.push((color.name().to_owned(), endpoint));
                }
            }
        }
    }
    found
}

/// What a status says of the switch, in words that are the same in each round: colors and
/// generations as seen from the state `before`, spans instead of instants.
fn facts(status: &Value, before: &Value) -> Value {
    let started = before["generation"].as_u64().unwrap_or_default();
    let generation = |it: &Value| it.as_u64().map(|it| i128::from(it) - i128::from(started));
    let of_service = |name: &str| {
        let (it, was) = (service_in(status, name), service_in(before, name));
        let color = |it: &Value| {
            if it.is_null() {
                Value::Null
            } else {
                json!(*it == was["active"])
            }
        };
        let drain = &it["drain"];
        let has_ended = !drain["ended"].is_null();
        let mut facts = json!({
            "name": name,
            "active is as before": color(&it["active"]),
            "base is the active one before": color(&it["base"]),
            "has changed": it["generation"] != was["generation"],
            "newest change": { "by": it["newest_change"]["by"], "from": color(&it["newest_change"]["from"]) },
            "waits for confirmation": !it["confirm_until_at"].is_null(),
            "split": it["split_percent"],
            "pauses": it["pauses"].as_array().map(Vec::len),
            "drained": drained(it).len(),
            "drain": { "color": color(&drain["color"]), "has ended": has_ended },
        });
        if !has_ended {
            facts["drain"]["at deadline"] = drain["at_deadline"].clone();
            facts["drain"]["lasts at most"] =
                span_ms(&drain["started_at"], &drain["deadline_at"]).into();
        }
        facts
    };
    json!({
        "generation": generation(&status["generation"]),
        "shop is there as before": has_shop(status) == has_shop(before),
        "services": SERVICES.map(of_service),
    })
}

/// Milliseconds between two instants of one day.
fn span_ms(from: &Value, to: &Value) -> Option<i64> {
    let of_day = |instant: &Value| -> Option<i64> {
        let text = instant.as_str()?.trim_end_matches('Z');
        let (_, time) = text.split_once('T')?;
        let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let mut parts = time.split(':').map(str::parse::<i64>);
        let (hours, minutes) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let seconds = parts.next()?.ok()? + 60 * (minutes + 60 * hours);
        let fraction: String = format!("{fraction:0<3}").chars().take(3).collect();
        Some(seconds * 1_000 + fraction.parse::<i64>().ok()?)
    };
    // Over midnight too.
    Some((of_day(to)? - of_day(from)?).rem_euclid(86_400_000))
}

#[test]
fn g5_a_kill_at_any_step_of_a_flip_leaves_the_state_before_or_the_one_after() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut rounds = Rounds::start(&lab)?;
    rounds.hold(&SERVICES)?;
    rounds.at_every_step(&Request {
        arguments: &[
            "flip",
            "stream",
            "other",
            "--to",
            "STANDBY",
            "--drain-timeout",
            "20m",
            "--at-deadline",
            "reset",
            "--confirm-within",
            "50m",
        ],
        prepare: &[],
        flow: Flow::Lives,
        threads: CHANGING,
        through: [&STORE[..], &TO_DISK].concat(),
    })
}

#[test]
fn g5_a_kill_at_any_step_of_a_drain_lets_it_go_on_and_end() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut rounds = Rounds::start(&lab)?;
    rounds.hold(&["other"])?;
    let flip: &[&[&str]] = &[&["flip", "stream", "--to", "STANDBY"]];
    rounds.at_every_step(&Request {
        arguments: &["drain", "stream", "--wait", "--timeout", "10s"],
        prepare: flip,
        flow: Flow::Ends,
        threads: &["core", "writer", "collector"],
        through: [
            &STORE[..],
            &TO_DISK,
            &["collector: bpf MAP_UPDATE_ELEM SCAN_REQUEST"],
        ]
        .concat(),
    })?;
    rounds.at_every_step(&Request {
        arguments: &["drain", "stream", "--finish-now", "reset"],
        prepare: flip,
        flow: Flow::IsCut,
        threads: CHANGING,
        through: [&TO_DISK[..], &["core: bpf MAP_UPDATE_BATCH CUTS"]].concat(),
    })
}

/// How a state comes to disk is the same for all, and tested above.
#[test]
fn g5_a_kill_at_any_step_of_a_pause_or_a_backend_drain_leaves_the_state_before_or_the_one_after()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut rounds = Rounds::start(&lab)?;
    rounds.hold(&SERVICES)?;
    for (arguments, through) in [
        (&["pause", "stream", "--max", "30s"][..], STORE.to_vec()),
        (
            &["backend", "drain", "stream", "ACTIVE", "BACKEND"],
            vec!["core: bpf MAP_UPDATE_ELEM CONFIG"],
        ),
    ] {
        rounds.at_every_step(&Request {
            arguments,
            prepare: &[],
            flow: Flow::Lives,
            threads: &["core"],
            through,
        })?;
    }
    Ok(())
}

#[test]
fn g5_a_kill_at_any_step_of_an_apply_leaves_the_configuration_before_or_the_one_after() -> Result<()>
{
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut rounds = Rounds::start(&lab)?;
    rounds.hold(&SERVICES)?;
    for with_shop in [false, true] {
        let mut services = SERVICES.map(service).to_vec();
        services.extend(with_shop.then(shop));
        fs::write(file_of(&lab, with_shop), configuration(&lab, &services))?;
    }
    let keep = [
        "writer: make state/applied.toml.new",
        "writer: write state/applied.toml.new",
        "writer: fsync state/applied.toml.new",
        "writer: rename state/applied.toml.new",
        "core: bpf MAP_UPDATE_ELEM CONFIG",
    ];
    rounds.at_every_step(&Request {
        arguments: &["apply", "FILE"],
        prepare: &[],
        flow: Flow::Lives,
        threads: CHANGING,
        through: [&keep[..], &TO_DISK].concat(),
    })
}
