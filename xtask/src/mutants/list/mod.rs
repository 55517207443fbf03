//! What `cargo xtask mutants` takes out or breaks, and what must notice.

mod agent;
mod chances;
mod decisions;
mod faults;
mod packets;

/// A build without one promise, or with a fault, and the test that must notice.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) promise: &'static str,
    pub(super) without: &'static str,
    /// Test target of package switcher-tests, or [`DECISIONS`].
    pub(super) target: &'static str,
    /// Name of the test.
    pub(super) test: &'static str,
}

/// The unit tests of package switcher-userspace: its decisions need no kernel.
pub(super) const DECISIONS: &str = "decisions";

/// The policy of failover under years of simulated time.
const SIMULATION: &str = "failover::tests::simulation::";

/// Name of the differential test, which is the same each time.
const KNOWN_SEQUENCE: &str = "program_and_model_agree_on_a_known_sequence";

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Mutant> {
    [
        packets::MUTANTS,
        chances::MUTANTS,
        agent::MUTANTS,
        decisions::MUTANTS,
        faults::MUTANTS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::{fs, io, path::Path};

    use super::*;
    use crate::workspace;

    fn read_all(dir: &Path, text: &mut String) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                read_all(&path, text)?;
            } else {
                text.push_str(&fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    #[test]
    fn every_mutant_is_in_the_code_and_every_one_there_is_listed() {
        let root = workspace::root().expect("the project's folder");
        let mut text = String::new();
        for package in ["switcher-common", "switcher-ebpf", "switcher-userspace"] {
            read_all(&root.join(package).join("src"), &mut text).expect("sources");
        }
        let mut there: Vec<_> = text
            .split("cfg!(mutant = \"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        let mut listed: Vec<_> = all().map(|mutant| mutant.name).collect();
        there.sort_unstable();
        there.dedup();
        listed.sort_unstable();
        assert_eq!(listed, there);
    }
}
