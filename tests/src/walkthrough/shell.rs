//! Carries out the commands of a page.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    document::{Command, Section},
    transcript::is_alike,
};
use crate::lab::Lab;

/// Longest time that one command may take.
const LIMIT: Duration = Duration::from_mins(1);
/// The command after one that fails shows with which code.
const SHOWS_CODE: &str = "echo $?";

/// Runs commands on the lab's node, each in a shell of its own, in one directory.
pub struct Shell<'lab> {
    lab: &'lab Lab,
    directory: PathBuf,
    variables: Vec<(&'static str, OsString)>,
    /// Exit code of the command before.
    code: i32,
}

impl<'lab> Shell<'lab> {
    /// A shell in `directory`, whose commands see `variables`.
    #[must_use]
    pub fn new(lab: &'lab Lab, directory: &Path, variables: Vec<(&'static str, OsString)>) -> Self {
        Self {
            lab,
            directory: directory.to_owned(),
            variables,
            code: 0,
        }
    }

    /// Writes a file of the page; one that begins with `#!` is a command.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        let parent = path.parent().context("a file is in a directory")?;
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Carries out a section; what its commands say must be what the page shows.
    pub fn carry_out(&mut self, section: &Section) -> Result<()> {
        let mut commands = section.commands.iter().peekable();
        while let Some(command) = commands.next() {
            let found = self.run(&command.text)?;
            let Command { text, output } = command;
            ensure!(
                is_alike(output, &found),
                "below {:?} the page and the program differ.\n$ {text}\n--- the page shows\n{}\n\
                 --- it said\n{found}---",
                section.title,
                output.join("\n")
            );
            let is_shown = commands.peek().is_some_and(|next| next.text == SHOWS_CODE);
            ensure!(
                self.code == 0 || is_shown,
                "below {:?}, `{text}` ended with code {}, and the page does not show it: {found}",
                section.title,
                self.code
            );
        }
        Ok(())
    }

    /// Runs one command; what it wrote to standard output and standard error, in the order of writing.
    pub fn run(&mut self, text: &str) -> Result<String> {
        // A file, as a service that is started may hold on to the stream.
        let path = self.directory.join(".output");
        let output =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = self.lab.node().command("bash");
        let script = format!("umask 022\n(exit {})\n{text}", self.code);
        command.args(["-c", &script]).current_dir(&self.directory);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command.stdout(output.try_clone().context("cannot share the output")?);
        command.stderr(output);
        let mut child = self.lab.node().start_child(command)?;
        let status = child.wait(LIMIT)?;
        let said = fs::read_to_string(&path).context("a command's output")?;
        let Some(status) = status else {
            bail!("`{text}` did not end within {LIMIT:?}; it said: {said}");
        };
        self.code = status.code().unwrap_or(-1);
        Ok(said)
    }
}
