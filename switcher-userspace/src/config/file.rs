//! A configuration file: its text, and whether somebody else could have written commands into it.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use super::{Config, ConfigError};

/// Permission of the group or of others to write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A file that was read.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// What it says.
    pub text: String,
    /// User id of its owner.
    owner: u32,
    /// Its permissions.
    mode: u32,
}

impl ConfigFile {
    /// Reads `path`, and checks nothing.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let (text, metadata) = read(path).map_err(|source| ConfigError::Read {
            file: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            text,
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
        })
    }

    /// The configuration, without fault. Hooks are refused where another user could have written them, as they run
    /// with the rights of this process.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let config = Config::parse(&self.path, &self.text)?;
        if !config.agent.hooks.is_empty()
            && !cfg!(mutant = "hooks-of-anyone")
            && let Some(found) = self.foreign_rights(geteuid().as_raw())
        {
            return Err(ConfigError::ForeignHooks {
                file: self.path.clone(),
                found,
            });
        }
        Ok(config)
    }

    /// Who could write it beside root and `own`.
    fn foreign_rights(&self, own: u32) -> Option<String> {
        if ![0, own].contains(&self.owner) {
            Some(format!("it belongs to user {}", self.owner))
        } else if self.mode & WRITABLE_BY_OTHERS != 0 {
            Some(format!("its mode is {:04o}", self.mode))
        } else {
            None
        }
    }
}

/// Text and rights of the same file, whatever happens to its name meanwhile.
fn read(path: &Path) -> io::Result<(String, Metadata)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok((text, metadata))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
    };

    use super::*;

    fn with(mode: u32, lines: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("switcher.toml");
        fs::write(&path, format!("[agent]\ninterfaces = ['a']\n{lines}")).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        ConfigFile::read(&path)?.config()
    }

    const HOOK: &str = "[[agent.hook]]\non = ['ejection']\ncommand = ['/bin/true']\n";

    #[test]
    fn hooks_are_refused_in_a_file_that_others_can_write() {
        for mode in [0o600, 0o640, 0o644, 0o444] {
            assert!(with(mode, HOOK).is_ok(), "{mode:o}");
        }
        for mode in [0o620, 0o602, 0o664, 0o666] {
            let error = with(mode, HOOK)
                .expect_err("others can write it")
                .to_string();
            assert!(
                error.contains(&format!("its mode is {mode:04o}")) && error.contains("chmod"),
                "{error}"
            );
            assert!(with(mode, "").is_ok(), "nothing runs: {mode:o}");
        }
    }

    #[test]
    fn hooks_are_refused_in_the_file_of_another_user() {
        let file = |owner| ConfigFile {
            path: PathBuf::from("switcher.toml"),
            text: String::new(),
            owner,
            mode: 0o600,
        };
        assert_eq!(file(0).foreign_rights(0), None);
        assert_eq!(file(0).foreign_rights(990), None);
        assert_eq!(file(990).foreign_rights(990), None);
        let found = file(1_000).foreign_rights(990);
        assert_eq!(found.as_deref(), Some("it belongs to user 1000"));
    }
}
