//! An example in the help of each verb.

use std::ffi::OsString;

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::arguments::Arguments;

/// Command lines; each stands in the help of the verb that it begins with.
const EXAMPLES: [&str; 27] = [
    "agent --config /etc/switcher/switcher.toml",
    "detach --config /etc/switcher/switcher.toml",
    "status web --watch",
    "wait web --until active=green,drained --timeout 60s",
    "flip web api --to green --confirm-within 5m",
    "rollback web --reason 'errors since the flip' --wait",
    "confirm web",
    "split web --standby 10",
    "promote web --wait",
    "abort web --drain-timeout 10s",
    "pause web/http --max 10s",
    "resume web/http",
    "backend drain web blue 10.0.1.11:8080",
    "backend resume web blue 10.0.1.11:8080",
    "failover enable web --reason 'the database has moved'",
    "failover disable web --reason 'the database moves'",
    "failover status web",
    "failover drill web --timeout 10s",
    "deploy web --smoke './smoke.sh --quick' -- ./update.sh 1.4.2",
    "history web --limit 10",
    "apply new.toml --dry-run",
    "check new.toml",
    "explain tcp 192.0.2.7:40000 198.51.100.1:443",
    "preview web",
    "flows web --color blue --limit 10",
    "trace --client 192.0.2.7 --count 20",
    "drain web --wait --timeout 60s",
];

/// What a command line says; its first element is the program's name.
pub(super) fn parse(command_line: &[OsString]) -> Result<Arguments, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(command_line);
    matches
        .and_then(|mut matches| Arguments::from_arg_matches_mut(&mut matches))
        .map_err(|refusal| refusal.format(&mut command))
}

/// The command line's grammar, with the examples in its help.
fn command() -> Command {
    EXAMPLES
        .into_iter()
        .fold(Arguments::command(), |command, example| {
            put(command, example.split(' '), example)
        })
}

/// Puts an example below the help of the verb that `words` begin with.
fn put<'a>(command: Command, mut words: impl Iterator<Item = &'a str>, example: &str) -> Command {
    match words.next() {
        Some(verb) if command.find_subcommand(verb).is_some() => {
            command.mut_subcommand(verb, |command| put(command, words, example))
        }
        _ => {
            let line = format!("  switcher {example}");
            let below = match command.get_after_help() {
                None => format!("Example:\n{line}"),
                Some(text) => format!("{text}\n\nExample:\n{line}"),
            };
            command.after_help(below)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands below `command` that have none below them, but for clap's own `help`.
    fn verbs(command: &Command) -> Vec<&Command> {
        let below = command.get_subcommands();
        let mut verbs = below.filter(|it| it.get_name() != "help").peekable();
        if verbs.peek().is_none() {
            return vec![command];
        }
        verbs.flat_map(self::verbs).collect()
    }

    #[test]
    fn each_verb_has_one_example_at_the_end_of_its_help() {
        let command = command();
        let verbs = verbs(&command);
        for &verb in &verbs {
            let help = verb.clone().render_help().to_string();
            let examples = help.split("\nExample:\n").skip(1).collect::<Vec<_>>();
            let [example] = examples.as_slice() else {
                panic!("{}: {} examples in {help}", verb.get_name(), examples.len());
            };
            assert_eq!(example.trim_end().lines().count(), 1, "{help}");
            assert!(
                example.contains(&format!(" {} ", verb.get_name())),
                "{help}"
            );
        }
        assert_eq!(verbs.len(), EXAMPLES.len());
    }

    #[test]
    fn examples_are_command_lines() {
        for example in EXAMPLES {
            let words = shlex::split(&format!("switcher {example}")).unwrap();
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let parsed = parse(&words);
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }
}
