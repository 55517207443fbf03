//! bpf-linker, built against the compiler's own LLVM: no LLVM package is needed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{probe, remove_folder, rustup_name};
use crate::{
    process::{find_program, run_kept_back, say},
    toolchain::{BPF_LINKER_VERSION, Toolchain, cargo},
};

const INSTALL_LIMIT: Duration = Duration::from_mins(30);
/// A linker script of LLVM's name lies beside the library; it has some tens of bytes.
const SMALLEST_LIBRARY: u64 = 1 << 20;

/// Installs bpf-linker unless one is there that links.
pub(super) fn ensure(toolchain: &Toolchain) -> Result<()> {
    if toolchain.linker().is_file() {
        match probe::run(toolchain) {
            Ok(()) => return Ok(()),
            Err(error) => {
                say(&format!("{error:#}"));
                say("bpf-linker is there but does not link; building it anew");
            }
        }
    }
    install(toolchain)?;
    probe::run(toolchain).with_context(|| {
        format!(
            "the tools were installed but do not build an eBPF program\n\
             next: if {} was put there by hand, remove it and run `cargo xtask setup` again",
            toolchain.library().display()
        )
    })
}

fn install(toolchain: &Toolchain) -> Result<()> {
    if find_program("cc").is_none() {
        bail!(
            "no C compiler: bpf-linker is linked by `cc`, which is not on the PATH\n\
             next: install gcc (Debian, Ubuntu: `apt-get install gcc libc6-dev`)"
        );
    }
    let library = find_llvm(&toolchain.sysroot.join("lib"))?;
    let name = library
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .with_context(|| format!("{} has no file name", library.display()))?;
    let major = llvm_major(&name)
        .with_context(|| format!("cannot tell LLVM's version from {}", library.display()))?;
    let llvm = link_llvm(toolchain, &library, &name)?;
    let build = toolchain.folder.join("build");
    say(&format!(
        "building bpf-linker {BPF_LINKER_VERSION} (about a minute, once per compiler version)"
    ));
    // The library is found by run path, so that the linker runs in any environment.
    let run_path = format!("-Clink-arg=-Wl,-rpath,{}", llvm.join("lib").display());
    let mut command = Command::new(cargo());
    command
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION])
        .args(["--locked", "--force"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .arg("--root")
        .arg(&toolchain.folder)
        .arg("--target-dir")
        .arg(&build)
        // Outside the project, whose cargo configuration is not meant for this.
        .current_dir(&toolchain.folder)
        .env("LLVM_PREFIX", &llvm)
        .env("CARGO_ENCODED_RUSTFLAGS", run_path)
        .env("RUSTUP_TOOLCHAIN", rustup_name(toolchain))
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    run_kept_back("building bpf-linker", &mut command, INSTALL_LIMIT).map_err(|error| {
        anyhow!(
            "{error:#}\nnext: check that crates can be downloaded and that gcc works, then run \
             `cargo xtask setup` again; what is built so far is kept"
        )
    })?;
    remove_folder(&build)
}

/// Makes a folder that looks like an LLVM installation: the compiler's library under two names.
fn link_llvm(toolchain: &Toolchain, library: &Path, name: &str) -> Result<PathBuf> {
    let prefix = toolchain.folder.join("llvm");
    remove_folder(&prefix)?;
    let folder = prefix.join("lib");
    fs::create_dir_all(&folder)
        .and_then(|()| symlink(library, folder.join(name)))
        .and_then(|()| symlink(library, folder.join("libLLVM.so")))
        .with_context(|| format!("cannot link LLVM's library into {}", folder.display()))?;
    Ok(prefix)
}

fn find_llvm(folder: &Path) -> Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libLLVM"))
        })
        .find(|path| fs::metadata(path).is_ok_and(|data| data.len() > SMALLEST_LIBRARY))
        .ok_or_else(|| {
            anyhow!(
                "the compiler has no LLVM library of its own: wanted libLLVM* in {}\n\
                 next: use the compiler that rustup installs, not a distribution's package",
                folder.display()
            )
        })
}

/// LLVM's major version, in `libLLVM.so.22.1-rust-..` or `libLLVM-22-rust-..`.
fn llvm_major(library_name: &str) -> Option<&str> {
    let rest = library_name.strip_prefix("libLLVM")?;
    let rest = rest
        .strip_prefix(".so.")
        .or_else(|| rest.strip_prefix('-'))?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest.get(..end).filter(|major| !major.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_is_read_from_both_forms_of_name() {
        assert_eq!(llvm_major("libLLVM.so.22.1-rust-1.95.0-stable"), Some("22"));
        assert_eq!(llvm_major("libLLVM-17-rust-1.75.0-stable.so"), Some("17"));
        assert_eq!(llvm_major("libLLVM.so"), None);
        assert_eq!(llvm_major("librustc_driver.so"), None);
    }

    #[test]
    fn a_linker_script_is_not_taken_for_the_library() {
        let folder = std::env::temp_dir().join(format!("xtask-llvm-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the test's own folder");
        fs::write(folder.join("libLLVM-22.so"), "INPUT(libLLVM.so.22.1)")
            .expect("the test's own folder");
        assert!(find_llvm(&folder).is_err());
        let library = folder.join("libLLVM.so.22.1");
        fs::File::create(&library)
            .expect("the test's own folder")
            .set_len(SMALLEST_LIBRARY + 1)
            .expect("the test's own folder");
        assert_eq!(find_llvm(&folder).expect("the library is there"), library);
        fs::remove_dir_all(&folder).expect("the test's own folder");
    }
}
