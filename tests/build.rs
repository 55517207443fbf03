//! Builds the programs that the bench measures with: `$OUT_DIR/switcher-bench-ebpf`.

#[path = "../xtask/src/ebpf_object.rs"]
mod ebpf_object;

fn main() -> std::process::ExitCode {
    ebpf_object::build("switcher-bench-ebpf", "tests/ebpf", false)
}
