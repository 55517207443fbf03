//! What the output of `cargo test -- --show-output` says in sum.

use std::collections::BTreeSet;

/// Counts over all test programs of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Tests that passed by saying SKIPPED; libtest counts them as passed.
    skipped_tests: BTreeSet<(u64, String)>,
    /// Skips said outside of any test's captured output, say by a program that a test ran.
    skips_outside: u64,
    /// Every skip with its reason, in order.
    pub(crate) skips: Vec<String>,
    /// The test whose captured output is being read.
    current_test: Option<String>,
    /// Number of test programs that ended: two may have tests of the same name.
    programs: u64,
}

impl Report {
    /// Takes in one line of output.
    pub(crate) fn read_line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("test result:") {
            self.add_result(rest);
        } else if let Some(name) = captured_output_header(line) {
            self.current_test = Some(name.to_owned());
        } else if matches!(line, "successes:" | "failures:") {
            self.current_test = None;
        } else if line.starts_with("SKIPPED") {
            self.add_skip(line);
        }
    }

    /// How many tests ran, skipped ones included.
    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed
    }

    /// One plain line.
    pub(crate) fn summary(&self) -> String {
        let skipped_tests = self.skipped_tests.len() as u64;
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed.saturating_sub(skipped_tests),
            self.failed,
            skipped_tests + self.skips_outside + self.ignored
        )
    }

    fn add_result(&mut self, rest: &str) {
        self.passed += count(rest, "passed");
        self.failed += count(rest, "failed");
        self.ignored += count(rest, "ignored");
        self.programs += 1;
        self.current_test = None;
    }

    fn add_skip(&mut self, line: &str) {
        if let Some(test) = &self.current_test {
            self.skips.push(format!("{test}: {line}"));
            self.skipped_tests.insert((self.programs, test.clone()));
        } else {
            self.skips.push(line.to_owned());
            self.skips_outside += 1;
        }
    }
}

/// The test's name in `---- name stdout ----`.
fn captured_output_header(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// The number before `word` in `ok. 3 passed; 0 failed; ..`.
fn count(result: &str, word: &str) -> u64 {
    let words: Vec<_> = result.split([' ', ';']).collect();
    words
        .windows(2)
        .find_map(|pair| match pair {
            [number, name] if *name == word => number.parse().ok(),
            _ => None,
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a ... ok
test b ... ok
test c ... ok

successes:

---- a stdout ----
SKIPPED needs root
SKIPPED needs BTF

---- b stdout ----
not SKIPPED at all


successes:
    a
    b
    c

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 2 tests

successes:

---- a stdout ----
SKIPPED needs root

failures:

---- d stdout ----
thread 'd' panicked

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1.2s
";

    fn report(text: &str) -> Report {
        let mut report = Report::default();
        for line in text.lines() {
            report.read_line(line);
        }
        report
    }

    #[test]
    fn results_are_summed_and_skipped_tests_are_not_passed_ones() {
        let report = report(OUTPUT);
        assert_eq!(report.summary(), "2 passed, 1 failed, 3 skipped");
        assert_eq!(report.ran(), 5);
    }

    #[test]
    fn every_skip_is_listed_with_its_test() {
        assert_eq!(
            report(OUTPUT).skips,
            [
                "a: SKIPPED needs root",
                "a: SKIPPED needs BTF",
                "a: SKIPPED needs root"
            ]
        );
    }

    #[test]
    fn a_skip_outside_of_captured_output_counts() {
        let report = report("SKIPPED no tool\ntest result: ok. 1 passed; 0 failed; 0 ignored\n");
        assert_eq!(report.skips, ["SKIPPED no tool"]);
        assert_eq!(report.summary(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn no_output_is_no_test() {
        assert_eq!(report("error: could not compile").ran(), 0);
    }
}
