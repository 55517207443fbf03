//! `[[agent.hook]]`: what is run, when, and for how long.

use std::collections::BTreeSet;

use super::{Findings, Place};
use crate::{config::HookConfig, duration::Span};

/// Each event asks every hook.
const MOST: usize = 32;
const SHORTEST: Span = Span::from_millis(100);
/// The agent's end waits for a command that runs.
const LONGEST: Span = Span::from_secs(60);

pub(super) fn check(hooks: &[HookConfig], place: &Place, findings: &mut Findings<'_>) {
    let all = place.key("hook");
    if hooks.len() > MOST {
        let what = format!("there are {} hooks; expected at most {MOST}", hooks.len());
        findings.add(&all, what);
    }
    for (index, hook) in hooks.iter().enumerate() {
        let place = all.index(index);
        check_events(hook, &place, findings);
        check_command(hook, &place, findings);
        findings.expect_span(&place, "timeout", hook.timeout, SHORTEST, LONGEST);
    }
}

fn check_events(hook: &HookConfig, place: &Place, findings: &mut Findings<'_>) {
    let once: BTreeSet<_> = hook.on.iter().collect();
    if hook.on.is_empty() || once.len() < hook.on.len() {
        let what =
            "on of a hook is empty or names an event twice; expected at least one, each once";
        findings.add(&place.key("on"), what);
    }
}

fn check_command(hook: &HookConfig, place: &Place, findings: &mut Findings<'_>) {
    let place = place.key("command");
    match hook.command.first() {
        Some(program) if program.starts_with('/') => {}
        Some(program) => {
            let what = format!(
                "command of a hook begins with {program:?}; expected an absolute path, as no PATH is searched"
            );
            findings.add(&place, what);
        }
        None => findings.add(
            &place,
            "command of a hook is empty; expected an absolute path and its arguments",
        ),
    }
    if hook.command.iter().any(|word| word.contains('\0')) {
        findings.add(
            &place,
            "command of a hook has a zero byte; expected words that a command can get",
        );
    }
}
