//! Builds the XDP program, so that the library can hold it: `$OUT_DIR/switcher-ebpf`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use toolchain::{EBPF_TARGET, Toolchain};

const PACKAGE: &str = "switcher-ebpf";

fn main() -> ExitCode {
    match find_tools().map(|(root, toolchain)| build(&root, &toolchain)) {
        // The errors make cargo fail without a code of our own, which would only add noise here.
        Err(message) => {
            report(&message);
            ExitCode::SUCCESS
        }
        // The code makes cargo show what the inner compiler wrote.
        Ok(Err(message)) => {
            report(&message);
            ExitCode::FAILURE
        }
        Ok(Ok(())) => ExitCode::SUCCESS,
    }
}

fn report(message: &str) {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
}

fn find_tools() -> Result<(PathBuf, Toolchain), String> {
    let root = project_root()?;
    watch_inputs(&root);
    let toolchain = Toolchain::locate(&root)?;
    println!("cargo::rerun-if-env-changed={}", toolchain::MUTANT_VARIABLE);
    if let Some(mutant) = toolchain::mutant() {
        println!("cargo::rustc-cfg=mutant=\"{mutant}\"");
    }
    // Whoever runs the set-up after a failure must not meet the remembered failure.
    println!("cargo::rerun-if-changed={}", toolchain.stamp().display());
    toolchain.check_ready()?;
    Ok((root, toolchain))
}

fn build(root: &Path, toolchain: &Toolchain) -> Result<(), String> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = out_dir.join("ebpf-target");
    let mut cargo = toolchain.ebpf_cargo("build", &target_dir);
    cargo.args(["--package", PACKAGE]).current_dir(root);
    let status = cargo
        .status()
        .map_err(|error| format!("cannot run cargo for {PACKAGE}: {error}"))?;
    if !status.success() {
        return Err(format!(
            "the eBPF program does not build ({status}); see `--- stderr` below\n\
             next: correct switcher-ebpf; if the linker or `core` is named, `cargo xtask setup`"
        ));
    }
    let object = target_dir.join(EBPF_TARGET).join("release").join(PACKAGE);
    let copy = out_dir.join(PACKAGE);
    fs::copy(&object, &copy).map(|_| ()).map_err(|error| {
        format!(
            "cannot copy {} to {}: {error}",
            object.display(),
            copy.display()
        )
    })
}

fn project_root() -> Result<PathBuf, String> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    package
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{} has no parent folder", package.display()))
}

fn watch_inputs(root: &Path) {
    for input in [
        PACKAGE,
        "switcher-common",
        "rust-toolchain.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    for name in ["SWITCHER_MUTANT", "SWITCHER_TOOLCHAIN_DIR"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}; run this by cargo"))
}
