//! What a configuration that parses can still have wrong.
//!
//! Everything is looked for in one go, so that an operator mends a file once. A finding reads
//! `line 14: service web, listener http: what was found; what was expected`.

mod agent;
mod endpoints;
mod failover;
mod health;
mod hooks;
mod lines;
mod services;

use std::fmt::Display;

use self::lines::{Lines, Step};
use super::Config;
use crate::duration::Span;

/// Everything that contradicts itself in `config`, in the order of the lines of `text`.
pub(super) fn findings(config: &Config, text: &str) -> Vec<String> {
    let mut findings = Findings::new(text);
    agent::check(&config.agent, &mut findings);
    services::check(config, &mut findings);
    endpoints::check(config, &mut findings);
    findings.into_sentences()
}

/// Part of the file: the way to it from the top, and what people call it.
#[derive(Clone)]
struct Place {
    steps: Vec<Step>,
    subject: String,
}

impl Place {
    fn agent() -> Self {
        Self {
            steps: vec![Step::Key("agent")],
            subject: "agent".to_owned(),
        }
    }

    fn service(index: usize, name: &str) -> Self {
        Self {
            steps: vec![Step::Key("service"), Step::Index(index)],
            subject: format!("service {}", title(index, name)),
        }
    }

    fn listener(&self, index: usize, name: &str) -> Self {
        let subject = format!("{}, listener {}", self.subject, title(index, name));
        Self {
            subject,
            ..self.key("listener").index(index)
        }
    }

    /// A table of its own inside this part.
    fn table(&self, key: &'static str) -> Self {
        let subject = format!("{}, {key}", self.subject);
        Self {
            subject,
            ..self.key(key)
        }
    }

    /// The value of `key`; people still call it by the name of the part that it belongs to.
    fn key(&self, key: &'static str) -> Self {
        self.step(Step::Key(key))
    }

    fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    fn step(&self, step: Step) -> Self {
        let mut place = self.clone();
        place.steps.push(step);
        place
    }
}

/// How a named part is called; its position stands in for a missing name.
fn title(index: usize, name: &str) -> String {
    if name.is_empty() {
        format!("number {}", index + 1)
    } else {
        name.escape_debug().to_string()
    }
}

/// The findings so far, each with its line.
struct Findings<'a> {
    lines: Lines<'a>,
    found: Vec<(Option<usize>, String)>,
}

impl<'a> Findings<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            lines: Lines::of(text),
            found: Vec::new(),
        }
    }

    fn add(&mut self, place: &Place, what: impl Display) {
        let line = self.line(place);
        self.found
            .push((line, format!("{}: {what}", place.subject)));
    }

    fn line(&self, place: &Place) -> Option<usize> {
        self.lines.line_of(&place.steps)
    }

    /// Adds a finding unless `value` is at least 1 and at most `max`.
    fn expect_count(&mut self, place: &Place, key: &'static str, value: u64, max: u64) {
        if !(1..=max).contains(&value) {
            let what = format!("{key} is {value}; expected 1 to {max}");
            self.add(&place.key(key), what);
        }
    }

    /// Adds a finding unless `value` is at least `min` and at most `max`.
    fn expect_span(&mut self, place: &Place, key: &'static str, value: Span, min: Span, max: Span) {
        if !(min..=max).contains(&value) {
            let what = format!("{key} is {value}; expected {min} to {max}");
            self.add(&place.key(key), what);
        }
    }

    fn into_sentences(mut self) -> Vec<String> {
        self.found.sort_by_key(|(line, _)| *line);
        self.found
            .into_iter()
            .map(|(line, what)| match line {
                Some(line) => format!("line {line}: {what}"),
                None => what,
            })
            .collect()
    }
}
