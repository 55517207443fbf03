//! The state on disk: the truth after a reboot (G5).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::durable;
use crate::{
    api::types::{ApiError, ErrorCode},
    switching::Switchboard,
};

/// The file's name in the state directory.
const NAME: &str = "state.json";
/// Version of the file's shape: 2 has what failover remembers, which agents before do not know.
const VERSION: u32 = 2;
/// The oldest one that is read.
const OLDEST: u32 = 1;

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    /// Boot that the drains' clocks belong to.
    pub(super) boot_id: String,
    /// The switch state.
    pub(super) board: Switchboard,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct StateFile {
    dir: PathBuf,
    boot_id: String,
}

impl StateFile {
    /// The state file of `dir`, which is made when missing.
    pub(super) fn open(dir: &Path, boot_id: String) -> Result<Self, ApiError> {
        fs::create_dir_all(dir)
            .map_err(|error| unusable("create the state directory", dir, &error))?;
        Ok(Self {
            dir: dir.to_owned(),
            boot_id,
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Reads the file; `None`: there is none yet. A damaged one is an error, never an empty start.
    pub(super) fn read(&self) -> Result<Option<State>, ApiError> {
        let path = self.path();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| unusable("read the state file", &path, &error))?,
        };
        let state: State =
            serde_json::from_slice(&text).map_err(|error| damaged(&path, &error.to_string()))?;
        if !(OLDEST..=VERSION).contains(&state.version) {
            let found = format!(
                "it has version {}, this agent reads {OLDEST} to {VERSION}",
                state.version
            );
            return Err(damaged(&path, &found));
        }
        Ok(Some(state))
    }

    /// Replaces the file; durable on return.
    pub(super) fn write(&self, board: &Switchboard) -> Result<(), ApiError> {
        if cfg!(mutant = "no-state-file") {
            return Ok(());
        }
        let state = State {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            board: board.clone(),
        };
        serde_json::to_vec_pretty(&state)
            .map_err(io::Error::from)
            .and_then(|text| durable::replace(&self.dir, NAME, &text))
            .map_err(|error| unusable("write the state file", &self.path(), &error))
    }
}

pub(super) fn unusable(attempt: &str, path: &Path, error: &io::Error) -> ApiError {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorCode::Permission,
        _ => ErrorCode::Internal,
    };
    ApiError::new(
        code,
        format!("cannot {attempt} {}: {error}", path.display()),
        "make `state_dir` of [agent] a directory that the agent can write, with free space",
    )
}

fn damaged(path: &Path, found: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        format!("the state file {} is damaged: {found}", path.display()),
        "restore it from a copy, or move it away: then each service takes the color that the kernel \
         has, or after a reboot its `initial_active`",
    )
}

#[cfg(test)]
mod tests {
    use switcher_common::service::Color;

    use super::*;
    use crate::switching::Service;

    fn board() -> Switchboard {
        Switchboard {
            generation: 3,
            services: [("web".to_owned(), Service::new(Color::Green))].into(),
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::open(dir.path(), "boot".to_owned()).expect("a state file");
        assert_eq!(file.read(), Ok(None));
        file.write(&board()).expect("written");
        let state = file.read().expect("read").expect("a state");
        assert_eq!((state.boot_id.as_str(), state.board), ("boot", board()));
    }

    #[test]
    fn a_damaged_file_is_an_error_never_an_empty_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::open(dir.path(), "boot".to_owned()).expect("a state file");
        file.write(&board()).expect("written");
        let whole = fs::read(file.path()).expect("the file");
        for len in 0..whole.len() {
            fs::write(file.path(), &whole[..len]).expect("cut");
            assert!(file.read().is_err(), "cut to {len} bytes");
        }
        let other = String::from_utf8(whole)
            .expect("text")
            .replace("\"version\": 2", "\"version\": 9");
        fs::write(file.path(), other).expect("written");
        assert!(file.read().is_err(), "another version");
    }

    #[test]
    fn a_temporary_file_of_a_crash_is_ignored_and_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::open(dir.path(), "boot".to_owned()).expect("a state file");
        fs::write(dir.path().join("state.json.new"), "half").expect("written");
        assert_eq!(file.read(), Ok(None));
        file.write(&board()).expect("written");
        assert!(file.read().expect("read").is_some());
    }
}
