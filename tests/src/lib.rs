//! What the end-to-end tests, the demo and the benchmarks stand on: a laboratory of network
//! namespaces that leaves nothing behind, and real servers and clients to run in it.

pub mod bpf;
pub mod fuzz;
pub mod lab;
pub mod machine;
pub mod node;
pub mod steps;
pub mod traffic;
pub mod walkthrough;

/// Leaves the calling test with a line `SKIPPED <test>: <reason>` where no lab can be built.
///
/// Its argument is what the test returns then, such as `Ok(())`; without one it returns nothing.
/// The line goes to the real standard output, past the capture of the test runner.
#[macro_export]
macro_rules! skip_unless_lab {
    ($value:expr) => {
        if let Err(skip) = $crate::lab::requirements() {
            fn here() {}
            $crate::lab::report_skip(std::any::type_name_of_val(&here), &skip);
            return $value;
        }
    };
    () => {
        $crate::skip_unless_lab!(())
    };
}
