//! Programs of the distribution: servers, what makes their load, and what the switcher is compared with.

use std::{collections::BTreeMap, env, ffi::OsString, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use switcher_tests::lab::Host;

use crate::plan::Plan;

/// Where they are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    files: BTreeMap<String, PathBuf>,
    libraries: Option<OsString>,
}

impl Programs {
    /// Those that were named, else those on the PATH; all of `names` must be there.
    pub(crate) fn find(plan: &Plan, names: &[&str]) -> Result<Self> {
        if let Some(why) = &plan.no_programs {
            bail!("{} cannot be had: {why}", names.join(", "));
        }
        let mut files: BTreeMap<_, _> = plan.program.iter().cloned().collect();
        for name in names {
            if files.contains_key(*name) {
                continue;
            }
            let path = env::var_os("PATH").unwrap_or_default();
            let found = env::split_paths(&path)
                .map(|folder| folder.join(name))
                .find(|file| file.is_file());
            let found = found.with_context(|| {
                format!(
                    "no {name} on the PATH, and no --program {name}=FILE\nnext: run `cargo xtask bench`, which gets it"
                )
            })?;
            files.insert((*name).to_owned(), found);
        }
        Ok(Self {
            files,
            libraries: plan.program_libraries.clone(),
        })
    }

    /// A command of `host`.
    pub(crate) fn command(&self, host: &Host, name: &str) -> Result<Command> {
        let file = self.files.get(name);
        let file = file.with_context(|| format!("{name} was not looked for"))?;
        let mut command = host.command(file);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        Ok(command)
    }
}

/// `NAME=FILE`.
pub(crate) fn named_file(argument: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = argument
        .split_once('=')
        .ok_or("expected NAME=FILE, such as wrk=/usr/bin/wrk")?;
    Ok((name.to_owned(), file.into()))
}
