//! The files and commands of a page in Markdown.

use anyhow::{Context as _, Result, bail, ensure};

/// Language of the blocks that have commands.
const CONSOLE: &str = "console";
/// Begins and ends a block.
const FENCE: &str = "```";

/// A page.
#[derive(Debug, Default)]
pub struct Document {
    /// In order.
    pub files: Vec<File>,
    /// Those that have commands, in order.
    pub sections: Vec<Section>,
}

/// A file that is shown in full.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// As the block names it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// What is done below one heading.
#[derive(Debug, Default)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// In order.
    pub commands: Vec<Command>,
}

/// A command with what it is shown to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// For a shell.
    pub text: String,
    /// The lines of its output, as patterns.
    pub output: Vec<String>,
}

impl Document {
    /// Takes `markdown` apart.
    pub fn parse(markdown: &str) -> Result<Self> {
        let mut document = Self::default();
        let mut title = "";
        let mut lines = markdown.lines();
        while let Some(line) = lines.next() {
            if line.starts_with('#') {
                title = line.trim_start_matches('#').trim();
            }
            let Some(info) = line.strip_prefix(FENCE) else {
                continue;
            };
            let block = block(&mut lines).with_context(|| format!("the block {info:?}"))?;
            let name = info.split_once(' ').map(|(_, name)| name.to_owned());
            if info == CONSOLE {
                let commands = commands(&block).with_context(|| format!("below {title:?}"))?;
                document.section(title).commands.extend(commands);
            } else if let Some(name) = name {
                let text = block.iter().flat_map(|line| [line, "\n"]).collect();
                document.files.push(File { name, text });
            }
        }
        Ok(document)
    }

    /// The text of the file `name`.
    pub fn file(&self, name: &str) -> Result<&str> {
        let found = self.files.iter().find(|file| file.name == name);
        let file = found.with_context(|| format!("the page shows no file {name}"))?;
        Ok(&file.text)
    }

    /// The section that `title` begins; a heading may be followed by several blocks.
    fn section(&mut self, title: &str) -> &mut Section {
        if (self.sections.last()).is_none_or(|section| section.title != title) {
            self.sections.push(Section {
                title: title.to_owned(),
                commands: Vec::new(),
            });
        }
        let last = self.sections.len() - 1;
        &mut self.sections[last]
    }
}

/// The lines up to the end of a block.
fn block<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>> {
    let mut block = Vec::new();
    for line in lines {
        if line == FENCE {
            return Ok(block);
        }
        block.push(line);
    }
    bail!("does not end")
}

fn commands(block: &[&str]) -> Result<Vec<Command>> {
    let mut commands: Vec<Command> = Vec::new();
    let mut goes_on = false;
    for &line in block {
        if goes_on {
            let command = commands.last_mut().context("a line that goes on")?;
            command.text = format!("{}\n{line}", command.text);
            goes_on = line.ends_with('\\');
        } else if let Some(text) = line.strip_prefix("$ ") {
            goes_on = text.ends_with('\\');
            commands.push(Command {
                text: text.to_owned(),
                output: Vec::new(),
            });
        } else {
            let command = commands.last_mut();
            let command = command.with_context(|| format!("output before a command: {line:?}"))?;
            command.output.push(line.to_owned());
        }
    }
    ensure!(!goes_on, "a command that ends with a backslash");
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Title\n```sh a.sh\n#!/bin/sh\ntrue\n```\n## One\n```console\n$ first \\\n    word\nout\n\nmore\n$ second\n```\n\
                        ### Two\n```text\n$ shown\n```\n```console\n$ third\n```\n";

    #[test]
    fn files_and_commands_are_found_below_their_headings() -> Result<()> {
        let document = Document::parse(PAGE)?;
        assert_eq!(document.file("a.sh")?, "#!/bin/sh\ntrue\n");
        assert!(document.file("b.sh").is_err());
        let found: Vec<_> = document
            .sections
            .iter()
            .map(|section| (section.title.as_str(), section.commands.len()))
            .collect();
        assert_eq!(found, [("One", 2), ("Two", 1)]);
        let first = &document.sections[0].commands[0];
        assert_eq!(first.text, "first \\\n    word");
        assert_eq!(first.output, ["out", "", "more"]);
        Ok(())
    }

    #[test]
    fn what_is_no_command_or_does_not_end_is_refused() {
        for page in [
            "```console\nout\n```\n",
            "```console\n$ a\n",
            "```console\n$ a \\\n```\n",
        ] {
            assert!(Document::parse(page).is_err(), "{page:?}");
        }
    }
}
