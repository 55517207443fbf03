//! What a refused start of the agent says, and that it leaves everything as it was.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rustix::thread::CapabilitySet;
use switcher_tests::{
    lab::Lab,
    node::{Ended, Node},
};
use switcher_userspace::preflight;

/// What an agent leaves on a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    /// Interfaces with an XDP program, and its mode.
    pub(crate) attached: BTreeMap<String, &'static str>,
    /// Everything below the bpffs.
    pub(crate) pins: Vec<PathBuf>,
    /// The state file.
    pub(crate) state: Option<Vec<u8>>,
    /// Files beside it.
    pub(crate) files: Vec<PathBuf>,
}

impl Traces {
    /// Those on the lab's node now.
    pub(crate) fn of(lab: &Lab) -> Result<Self> {
        let state = lab.dir().join("state");
        Ok(Self {
            attached: lab.node().run(preflight::attached_modes),
            pins: lab.node().run(|| below(lab.bpffs()))?,
            state: fs::read(state.join("state.json")).ok(),
            files: files_of(lab)?,
        })
    }

    /// Those of a node that no agent ever ran on.
    pub(crate) fn none(lab: &Lab) -> Result<Self> {
        Ok(Self {
            attached: BTreeMap::new(),
            pins: Vec::new(),
            state: None,
            files: files_of(lab)?
                .into_iter()
                .filter(|path| path.extension().is_none_or(|it| it != "sock"))
                .collect(),
        })
    }
}

/// What lies in the lab's directory, but for the files of the tests themselves.
fn files_of(lab: &Lab) -> Result<Vec<PathBuf>> {
    let paths = paths_in(lab.dir())?;
    let of_tests = [Some("toml"), Some("log")].map(|it| it.map(std::ffi::OsStr::new));
    let paths = paths.into_iter().filter(|path| {
        let directory = path.is_dir();
        !directory && !of_tests.contains(&path.extension()) && !path.ends_with("switcher")
    });
    Ok(paths.collect())
}

fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    // The kernel's own entries, which every bpffs has, end in `.debug`.
    let of_kernel = |path: &PathBuf| path.extension().is_some_and(|it| it == "debug");
    for path in paths_in(directory)?.into_iter().filter(|it| !of_kernel(it)) {
        if path.is_dir() {
            all.extend(below(&path)?);
        }
        all.push(path);
    }
    Ok(all)
}

fn paths_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// A start that must be refused.
pub(crate) struct Refused<'a> {
    lab: &'a Lab,
    node: &'a Node<'a>,
    config: PathBuf,
    capabilities: Option<CapabilitySet>,
}

impl<'a> Refused<'a> {
    /// With the node's configuration file.
    pub(crate) fn start(lab: &'a Lab, node: &'a Node<'a>) -> Self {
        Self {
            lab,
            node,
            config: node.config().to_owned(),
            capabilities: None,
        }
    }

    /// With a configuration file of its own.
    pub(crate) fn with(mut self, configuration: &str) -> Result<Self> {
        self.config = self.lab.dir().join("second.toml");
        fs::write(&self.config, configuration)
            .with_context(|| format!("cannot write {}", self.config.display()))?;
        Ok(self)
    }

    /// As an unprivileged user with some capabilities.
    pub(crate) const fn with_only(mut self, capabilities: CapabilitySet) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Starts the agent: it must end with `code` and a message that has all of `words`, for
    /// scripts and for people alike, and leave everything as it was.
    pub(crate) fn must_end(&self, code: i32, words: &[&str]) -> Result<()> {
        let before = Traces::of(self.lab)?;
        let for_scripts = self.run(&["--json"])?;
        let error = &for_scripts.object()?["error"];
        let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let for_people = self.run(&[])?;
        for (ended, text) in [
            (&for_scripts, field("message") + "\n" + &field("next_step")),
            (&for_people, said(&for_people)),
        ] {
            ensure!(ended.code == code, "expected exit code {code}: {ended:?}");
            for word in words {
                ensure!(text.contains(word), "no {word:?} in {text:?} of {ended:?}");
            }
        }
        ensure!(!field("next_step").is_empty(), "no next step: {error}");
        ensure!(
            for_people.stderr.contains("next step: ") && for_people.stdout.is_empty(),
            "{for_people:?}"
        );
        let after = Traces::of(self.lab)?;
        ensure!(after == before, "left behind: {after:?}, not {before:?}");
        Ok(())
    }

    fn run(&self, arguments: &[&str]) -> Result<Ended> {
        let ended = self
            .node
            .agent_that_ends(&self.config, arguments, self.capabilities);
        ended.with_context(|| format!("the agent was not refused; {}", self.node.log()))
    }
}

/// What is left of standard error without the log.
fn said(ended: &Ended) -> String {
    let from = ended.stderr.find("error: ").unwrap_or(ended.stderr.len());
    ended.stderr[from..].to_owned()
}
