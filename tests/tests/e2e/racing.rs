//! Many processes that change the same services at once, each from the state that it has seen.

use anyhow::{Result, ensure};
use serde_json::Value;
use switcher_tests::{node::Node, skip_unless_lab};

/// Processes that ask at once.
const PROCESSES: usize = 20;
/// How often they do.
const ROUNDS: u64 = 6;

/// Lets all of them ask for the same change at once; their objects and exit codes.
fn all_at_once(node: &Node<'_>, generation: u64) -> Result<Vec<(Value, i32)>> {
    let generation = generation.to_string();
    let verbs = [
        &["flip", "web", "stream"][..],
        &["rollback", "web", "stream"],
    ];
    // Only a flip can be rolled back; after a rollback, a rollback is already so.
    let is_flip = node.service("web")?["newest_change"]["by"] == "flip";
    let verbs = &verbs[..=usize::from(is_flip)];
    let started: Vec<_> = (0..PROCESSES)
        .map(|number| {
            let verb = verbs[number % verbs.len()];
            node.start_cli(&[verb, &["--if-generation", &generation]].concat())
        })
        .collect::<Result<_>>()?;
    let ends = started.into_iter().map(|child| {
        let ended = node.end_of(child)?;
        Ok((ended.object()?, ended.code))
    });
    ends.collect()
}

#[test]
fn of_twenty_processes_that_change_the_same_state_exactly_one_does() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    for generation in 0..ROUNDS {
        let ended = all_at_once(&node, generation)?;
        let (won, lost): (Vec<_>, Vec<_>) = ended.into_iter().partition(|(_, code)| *code == 0);
        ensure!(
            won.len() == 1
                && won[0].0["changed"] == true
                && won[0].0["generation"] == generation + 1,
            "round {generation}: {won:?}"
        );
        for (reply, code) in &lost {
            ensure!(
                *code == 4 && reply["changed"] == false && reply["generation"] == generation + 1,
                "round {generation}: code {code}: {reply}"
            );
        }
        ensure!(lost.len() == PROCESSES - 1);
        let (web, stream) = (node.service("web")?, node.service("stream")?);
        let now = generation + 1;
        ensure!(
            web["generation"] == now
                && stream["generation"] == now
                && web["active"] == stream["active"],
            "{web} {stream}"
        );
    }
    Ok(())
}
