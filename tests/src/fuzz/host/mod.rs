//! The packet logic that needs no kernel, on any bytes: a corpus of named seeds, and what becomes of
//! them by mutation.
//!
//! No coverage-guided fuzzer: libFuzzer needs a nightly compiler, which the project does not. The seeds
//! know the formats instead.

mod logic;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use serde::Serialize;

use self::logic::check;
use super::generate::mutate;
use super::step::{bytes, hex};

/// A seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The file's name without its ending.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// The frame.
    pub frame: Vec<u8>,
}

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HostReport {
    /// Frames that were tried.
    pub packets: u64,
    /// Frames that showed a defect.
    pub differences: u64,
    /// What all randomness came from.
    pub seed: u64,
    /// Frames by what they were.
    pub kinds: BTreeMap<String, u64>,
    /// The first few defects: the seed's name, what is wrong, and the frame.
    pub failures: Vec<(String, String, String)>,
}

/// After so many defects it is enough.
const MAX_FAILURES: usize = 5;
/// Longest frame.
const MAX_LEN: usize = 2_048;

/// The folder of the corpus.
#[must_use]
pub fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The seeds in `dir`: files `<name>.hex`, of which the first line says what it is.
pub fn corpus(dir: &Path) -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for file in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = file?.path();
        if path.extension().is_none_or(|it| it != "hex") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let about = || format!("the seed {}", path.display());
        let (what, rest) = text.split_once('\n').with_context(about)?;
        let what = what.strip_prefix("# ").with_context(about)?;
        seeds.push(Seed {
            name: path.file_stem().with_context(about)?.display().to_string(),
            what: what.to_owned(),
            frame: bytes(rest).with_context(about)?,
        });
    }
    ensure!(!seeds.is_empty(), "no seeds in {}", dir.display());
    seeds.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(seeds)
}

/// Tries the seeds, and then `packets` mutants of them.
pub fn run(packets: u64, seed: u64) -> Result<HostReport> {
    let seeds = corpus(&corpus_dir())?;
    let mut rng = Rng::with_seed(seed);
    let mut report = HostReport {
        seed,
        ..HostReport::default()
    };
    for it in &seeds {
        report.try_frame(&it.name, &it.frame);
    }
    while report.packets < packets && report.failures.len() < MAX_FAILURES {
        let it = &seeds[rng.usize(..seeds.len())];
        let mut frame = it.frame.clone();
        for _ in 0..rng.usize(1..5) {
            if rng.u8(..8) == 0 {
                splice(&mut rng, &mut frame, &seeds);
            } else {
                mutate::mutate(&mut rng, &mut frame);
            }
        }
        frame.truncate(MAX_LEN);
        report.try_frame(&it.name, &frame);
    }
    Ok(report)
}

/// The beginning of one frame, and the end of another.
fn splice(rng: &mut Rng, frame: &mut Vec<u8>, seeds: &[Seed]) {
    let other = &seeds[rng.usize(..seeds.len())].frame;
    let (keep, from) = (rng.usize(..=frame.len()), rng.usize(..=other.len()));
    frame.truncate(keep.max(14));
    frame.extend(&other[from..]);
}

impl HostReport {
    fn try_frame(&mut self, name: &str, frame: &[u8]) {
        self.packets += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| check(frame)));
        let wrong = match outcome {
            Ok(Ok(kind)) => {
                *self
                    .kinds
                    .entry(format!("{kind:?}").to_lowercase())
                    .or_default() += 1;
                return;
            }
            Ok(Err(wrong)) => wrong,
            Err(_) => "it panics".to_owned(),
        };
        self.differences += 1;
        self.failures.push((name.to_owned(), wrong, hex(frame)));
    }

    /// Whether nothing was wrong, and every kind of frame was among them.
    pub fn judge(&self) -> Result<()> {
        ensure!(self.differences == 0, "{:#?}", self.failures);
        for kind in ["other", "refused", "later", "message", "error", "datagram"] {
            let count = self.kinds.get(kind).copied().unwrap_or(0);
            ensure!(
                count * 100 >= self.packets,
                "{kind}: {count} of {} frames",
                self.packets
            );
        }
        Ok(())
    }
}
