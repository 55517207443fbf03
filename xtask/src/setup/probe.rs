//! The check that the tools work: an empty XDP program, built as the real one is.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use super::{remove_folder, rustup_name};
use crate::{
    process::{run_kept_back, say},
    toolchain::{EBPF_TARGET, Toolchain},
};

const LIMIT: Duration = Duration::from_mins(10);

const MANIFEST: &str = r#"
[package]
name = "probe"
edition = "2024"

[workspace]
"#;

const PROGRAM: &str = r#"
#![no_std]
#![no_main]

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
extern "C" fn probe(_context: *mut u8) -> i32 {
    2
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
"#;

/// Builds the program and looks at the object.
pub(super) fn run(toolchain: &Toolchain) -> Result<()> {
    say("checking the tools by building an eBPF program (about 15 s)");
    let folder = toolchain.folder.join("probe");
    remove_folder(&folder)?;
    fs::create_dir_all(folder.join("src"))
        .and_then(|()| fs::write(folder.join("Cargo.toml"), MANIFEST))
        .and_then(|()| fs::write(folder.join("src/main.rs"), PROGRAM))
        .with_context(|| format!("cannot write a crate to {}", folder.display()))?;
    let target_dir = folder.join("target");
    let mut command = toolchain.ebpf_cargo("build", &target_dir);
    command
        .current_dir(&folder)
        .env("RUSTUP_TOOLCHAIN", rustup_name(toolchain));
    run_kept_back("checking the tools", &mut command, LIMIT)?;
    check_object(&target_dir.join(EBPF_TARGET).join("release/probe"))?;
    remove_folder(&folder)
}

/// An object without BTF would load nowhere; debug info or `--btf` got lost then.
fn check_object(path: &Path) -> Result<()> {
    const ELF_MAGIC: &[u8] = b"\x7fELF";
    let object = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let has = |name: &[u8]| object.windows(name.len()).any(|window| window == name);
    if !object.starts_with(ELF_MAGIC) || !has(b"\0.BTF\0") {
        bail!(
            "{} is no eBPF object with BTF: found {} bytes, expected an ELF file with a section \
             .BTF",
            path.display(),
            object.len()
        );
    }
    Ok(())
}
