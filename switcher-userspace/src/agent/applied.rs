//! Which configuration holds at a start: the one of the agent's own file, or a newer one that was
//! applied, which lies beside the state.
//!
//! The applied one holds as long as the agent's own file is as it was then. Whoever changes that file
//! means it, so it holds from then on.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{durable, state_file::unusable};
use crate::{
    api::types::{ApiError, ErrorCode},
    config::{Config, ConfigError, ConfigFile},
};

/// The file's name in the state directory.
const NAME: &str = "applied.toml";
const INTRODUCTION: &str =
    "# A configuration that was applied. Not for editing: `switcher apply` replaces it.\n";
const FILE_LINE: &str = "# The agent's own file was then sha256:";
const TEXT_LINE: &str = "# What follows is sha256:";

/// SHA-256 of a text, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest(String);

impl Digest {
    /// Of `text`.
    pub(super) fn of(text: &str) -> Self {
        let mut digits = String::new();
        for byte in Sha256::digest(text.as_bytes()) {
            // Writing to a String does not fail.
            let _ = write!(digits, "{byte:02x}");
        }
        Self(digits)
    }
}

/// Which text holds after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// That of the agent's own file.
    File,
    /// This one, while the agent's own file is as it was.
    Applied {
        /// The text.
        text: String,
        /// Of the agent's own file.
        file: Digest,
    },
}

impl Kept {
    /// What is kept when `text` is applied while the agent's own file has the text `file`.
    pub(super) fn applied(text: String, file: &str) -> Self {
        if text == file {
            Self::File
        } else {
            let file = Digest::of(file);
            Self::Applied { text, file }
        }
    }
}

/// The file of the applied configuration.
#[derive(Clone, Debug)]
pub(super) struct AppliedFile {
    dir: PathBuf,
}

impl AppliedFile {
    /// That of a state directory.
    pub(super) fn of(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.to_owned(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Makes the file say what is kept; durable on return.
    pub(super) fn keep(&self, kept: &Kept) -> Result<(), ApiError> {
        let done = match kept {
            Kept::File => durable::remove(&self.dir, NAME),
            Kept::Applied { text, file } => {
                let content = content(text, file);
                durable::replace(&self.dir, NAME, content.as_bytes())
            }
        };
        done.map_err(|error| unusable("keep the applied configuration in", &self.path(), &error))
    }

    /// Reads the whole file; `None`: nothing is applied.
    fn read(&self) -> Result<Option<String>, ApiError> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable("read the applied configuration", &path, &error)),
        }
    }
}

fn content(text: &str, file: &Digest) -> String {
    let own = Digest::of(text);
    format!(
        "{INTRODUCTION}{FILE_LINE}{}\n{TEXT_LINE}{}\n{text}",
        file.0, own.0
    )
}

/// What [`content`] was made of; `None`: it was not made by it, or was changed since.
fn parts(content: &str) -> Option<(&str, Digest)> {
    let rest = content.strip_prefix(INTRODUCTION)?;
    let (file, rest) = rest.strip_prefix(FILE_LINE)?.split_once('\n')?;
    let (own, text) = rest.strip_prefix(TEXT_LINE)?.split_once('\n')?;
    (Digest::of(text).0 == own).then(|| (text, Digest(file.to_owned())))
}

/// The configuration that holds at a start.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) config: Config,
    /// Where it is from.
    pub(super) kept: Kept,
    /// The agent's own file has changed since another one was applied, which is to be forgotten.
    pub(super) is_overruled: bool,
}

/// Chooses between the agent's own file, and what was applied since.
pub(super) fn choose(own: &Path) -> anyhow::Result<Chosen> {
    let own_file = ConfigFile::read(own)?;
    let config = own_file.config()?;
    let file = AppliedFile::of(&config.agent.state_dir);
    let Some(content) = file.read()? else {
        return Ok(Chosen {
            config,
            kept: Kept::File,
            is_overruled: false,
        });
    };
    let path = file.path();
    let (text, then) = parts(&content).ok_or_else(|| damaged(&path, "its digest does not fit"))?;
    if then != Digest::of(&own_file.text) {
        return Ok(Chosen {
            config,
            kept: Kept::File,
            is_overruled: true,
        });
    }
    // The whole of it, so that a finding names a line of the file that it names.
    let mut applied = Config::parse(&path, &content).map_err(|error| rejected(&path, &error))?;
    // Only who may write the agent's own file says what runs with its rights.
    applied.agent.hooks = config.agent.hooks;
    let text = text.to_owned();
    Ok(Chosen {
        config: applied,
        kept: Kept::Applied { text, file: then },
        is_overruled: false,
    })
}

fn damaged(path: &Path, found: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        format!("{} is damaged: {found}", path.display()),
        "restore it from a copy, or move it away: then the agent's own configuration file holds",
    )
}

/// Another version of the agent took it.
fn rejected(path: &Path, error: &ConfigError) -> ApiError {
    ApiError::new(
        ErrorCode::Usage,
        error.to_string(),
        format!(
            "move {} away: then the agent's own configuration file holds",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "own.toml";

    fn text(service: &str, state_dir: &Path) -> String {
        format!(
            r#"[agent]
interfaces = ["eth0"]
state_dir = "{}"
[[service]]
name = "{service}"
[[service.listener]]
name = "http"
vip = "192.0.2.1"
port = 80
protocol = "tcp"
blue = [{{ address = "198.51.100.1", port = 80 }}]
"#,
            state_dir.display()
        )
    }

    /// A state directory with the agent's own file, and one that was applied.
    fn applied() -> (tempfile::TempDir, PathBuf, AppliedFile) {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join(OWN);
        let before = text("before", dir.path());
        fs::write(&own, &before).expect("the own file");
        let file = AppliedFile::of(dir.path());
        file.keep(&Kept::applied(text("after", dir.path()), &before))
            .expect("kept");
        (dir, own, file)
    }

    fn service(chosen: &Chosen) -> &str {
        &chosen.config.services[0].name
    }

    #[test]
    fn an_applied_configuration_holds_while_the_own_file_is_as_it_was() {
        let (dir, own, _) = applied();
        let chosen = choose(&own).expect("chosen");
        assert_eq!((service(&chosen), chosen.is_overruled), ("after", false));
        let kept = Kept::applied(text("after", dir.path()), &text("before", dir.path()));
        assert_eq!(chosen.kept, kept);
    }

    #[test]
    fn an_own_file_that_has_changed_since_holds() {
        let (dir, own, _) = applied();
        fs::write(&own, text("newest", dir.path())).expect("changed");
        let chosen = choose(&own).expect("chosen");
        assert_eq!((service(&chosen), chosen.is_overruled), ("newest", true));
        assert_eq!(chosen.kept, Kept::File);
    }

    #[test]
    fn what_is_forgotten_does_not_come_back() {
        let (_dir, own, file) = applied();
        for _ in 0..2 {
            file.keep(&Kept::File).expect("forgotten");
            let chosen = choose(&own).expect("chosen");
            assert_eq!((service(&chosen), chosen.is_overruled), ("before", false));
        }
    }

    #[test]
    fn applying_the_own_file_leaves_it_to_the_own_file() {
        assert_eq!(Kept::applied("same".to_owned(), "same"), Kept::File);
    }

    #[test]
    fn a_damaged_file_is_an_error_never_another_configuration() {
        let (_dir, own, file) = applied();
        let whole = fs::read_to_string(file.path()).expect("the file");
        for len in 0..whole.len() {
            fs::write(file.path(), &whole[..len]).expect("cut");
            assert!(choose(&own).is_err(), "cut to {len} bytes");
        }
        fs::write(file.path(), whole.replace("after", "other")).expect("changed");
        assert!(choose(&own).is_err(), "changed by hand");
    }
}
