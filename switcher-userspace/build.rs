//! Builds the XDP program, so that the library can hold it: `$OUT_DIR/switcher-ebpf`.

#[path = "../xtask/src/ebpf_object.rs"]
mod ebpf_object;

fn main() -> std::process::ExitCode {
    ebpf_object::build("switcher-ebpf", "switcher-ebpf", true)
}
