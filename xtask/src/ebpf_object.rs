//! What build scripts of crates that hold eBPF programs do: build a package to `$OUT_DIR/<its name>`.
//!
//! Included by path, as `toolchain.rs` is.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[path = "toolchain.rs"]
mod toolchain;

use toolchain::{EBPF_TARGET, Toolchain};

/// Builds the package `package` in the project's folder `folder`, with the promise left out that is asked for if it
/// `has_mutants`.
pub(crate) fn build(package: &str, folder: &str, has_mutants: bool) -> ExitCode {
    let built = find_tools(folder, has_mutants);
    match built.map(|(root, toolchain)| build_with(&root, &toolchain, package)) {
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

fn find_tools(folder: &str, has_mutants: bool) -> Result<(PathBuf, Toolchain), String> {
    let root = project_root()?;
    watch_inputs(&root, folder);
    let toolchain = Toolchain::locate(&root)?;
    if has_mutants {
        println!("cargo::rerun-if-env-changed={}", toolchain::MUTANT_VARIABLE);
        if let Some(mutant) = toolchain::mutant() {
            println!("cargo::rustc-cfg=mutant=\"{mutant}\"");
        }
    }
    // Whoever runs the set-up after a failure must not meet the remembered failure.
    println!("cargo::rerun-if-changed={}", toolchain.stamp().display());
    toolchain.check_ready()?;
    Ok((root, toolchain))
}

fn build_with(root: &Path, toolchain: &Toolchain, package: &str) -> Result<(), String> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = out_dir.join("ebpf-target");
    let mut cargo = toolchain.ebpf_cargo("build", &target_dir);
    cargo.args(["--package", package]).current_dir(root);
    let status = cargo
        .status()
        .map_err(|error| format!("cannot run cargo for {package}: {error}"))?;
    if !status.success() {
        return Err(format!(
            "the eBPF package {package} does not build ({status}); see `--- stderr` below\n\
             next: correct it; if the linker or `core` is named, `cargo xtask setup`"
        ));
    }
    let object = target_dir.join(EBPF_TARGET).join("release").join(package);
    let copy = out_dir.join(package);
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

fn watch_inputs(root: &Path, folder: &str) {
    for input in [
        folder,
        "switcher-common",
        "rust-toolchain.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed=SWITCHER_TOOLCHAIN_DIR");
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}; run this by cargo"))
}
