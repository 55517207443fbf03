//! Where the tools for the eBPF program are, and how it is compiled with them.
//!
//! The one definition of both: build scripts include this file by path, so it
//! needs nothing but the standard library and holds only what build scripts use too.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The release of bpf-linker that the project builds with; the only place that names it.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// The target of the eBPF program. All supported hosts are little-endian.
pub(crate) const EBPF_TARGET: &str = "bpfel-unknown-none";

/// Compiler flags of the eBPF program: BTF needs debug info, returning atomics need v3. In order, copies and fills are calls
/// of loops over bytes, which costs a packet some 80 ns; without, they are words in place.
const EBPF_RUSTFLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
    "-Ctarget-cpu=v3",
];

/// The release profile of the eBPF program, kept apart from the host's.
const EBPF_PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
];

/// What an outer cargo, clippy or the user set for the host and must not reach the eBPF build.
const HOST_ONLY_PREFIXES: [&str; 8] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_FEATURE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CLIPPY_",
];

/// The pinned compiler, and the tools that belong to it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// Version of the compiler, as rust-toolchain.toml pins it.
    pub(crate) version: String,
    /// Folder of the compiler.
    pub(crate) sysroot: PathBuf,
    /// Per-user folder for the tools of exactly this compiler and linker version.
    pub(crate) folder: PathBuf,
    /// All that `rustc -vV` says: another build of the same version has to be set up again.
    identity: String,
}

impl Toolchain {
    /// Finds the compiler that runs in the project at `root`, and refuses any but the pinned one.
    pub(crate) fn locate(root: &Path) -> Result<Self, String> {
        let wanted = pinned_version(root)?;
        let identity = rustc(root, &["-vV"])?;
        let found = identity_field(&identity, "release").unwrap_or("an unknown version");
        if found != wanted {
            return Err(format!(
                "wrong compiler: rust-toolchain.toml pins rustc {wanted}, found rustc {found}\n\
                 next: run cargo without +TOOLCHAIN and without RUSTUP_TOOLCHAIN, or \
                 `rustup toolchain install {wanted}`, then `cargo xtask setup`"
            ));
        }
        let host = identity_field(&identity, "host").unwrap_or("unknown-host");
        let folder = cache_root(root)?.join(format!(
            "rustc-{wanted}-{host}-bpf-linker-{BPF_LINKER_VERSION}"
        ));
        Ok(Self {
            version: wanted,
            sysroot: rustc(root, &["--print", "sysroot"])?.trim().into(),
            folder,
            identity,
        })
    }

    /// The linker's program file.
    pub(crate) fn linker(&self) -> PathBuf {
        self.folder.join("bin/bpf-linker")
    }

    /// The source of the standard library; `core` is compiled from it for the eBPF target.
    pub(crate) fn library(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    /// The file that says that these tools have built an eBPF program.
    pub(crate) fn stamp(&self) -> PathBuf {
        self.folder.join("ready")
    }

    /// What the stamp has to hold.
    pub(crate) fn stamp_text(&self) -> String {
        format!("{}sysroot: {}\n", self.identity, self.sysroot.display())
    }

    /// Whether `cargo xtask setup` has nothing to do; if not, says what is missing.
    pub(crate) fn check_ready(&self) -> Result<(), String> {
        let core = self.library().join("core/src/lib.rs");
        let missing = if !core.is_file() {
            format!(
                "the source of rustc {}'s library at {}",
                self.version,
                self.library().display()
            )
        } else if !self.linker().is_file() {
            format!(
                "bpf-linker {BPF_LINKER_VERSION} at {}",
                self.linker().display()
            )
        } else if fs::read_to_string(self.stamp()).ok() != Some(self.stamp_text()) {
            format!(
                "a successful check of the tools at {}",
                self.stamp().display()
            )
        } else {
            return Ok(());
        };
        Err(format!(
            "the tools for the eBPF program are not set up: wanted {missing}, found none\n\
             next: run `cargo xtask setup`"
        ))
    }

    /// A cargo command for the eBPF target, shielded from everything that is meant for the host.
    pub(crate) fn ebpf_cargo(&self, subcommand: &str, target_dir: &Path) -> Command {
        let mut command = Command::new(cargo());
        for (name, _) in env::vars_os() {
            if is_host_only(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        command
            .args([subcommand, "--release", "-Zbuild-std=core"])
            .args(["--target", EBPF_TARGET, "--target-dir"])
            .arg(target_dir)
            .envs(EBPF_PROFILE)
            // The pinned compiler is a stable one; this makes it accept -Zbuild-std.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", ebpf_rustflags())
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", self.linker())
            // Empty, not unset: also overrides a wrapper from the user's cargo configuration.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "");
        command
    }
}

/// Names the promise that a build is to leave out (`cargo xtask mutants`).
pub(crate) const MUTANT_VARIABLE: &str = "SWITCHER_MUTANT";

/// The mutant that is asked for, if any.
pub(crate) fn mutant() -> Option<String> {
    env::var(MUTANT_VARIABLE)
        .ok()
        .filter(|name| !name.is_empty())
}

fn ebpf_rustflags() -> String {
    let mut flags = EBPF_RUSTFLAGS.map(str::to_owned).to_vec();
    flags.extend(mutant().map(|name| format!("--cfg=mutant=\"{name}\"")));
    flags.join("\x1f")
}

/// The cargo that runs this program, so that no other one is picked up from the PATH.
pub(crate) fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn is_host_only(name: &str) -> bool {
    matches!(name, "RUSTC" | "RUSTDOC" | "RUSTFLAGS" | "RUSTDOCFLAGS")
        || (name != "CARGO_BUILD_JOBS"
            && HOST_ONLY_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix)))
}

fn pinned_version(root: &Path) -> Result<String, String> {
    let path = root.join("rust-toolchain.toml");
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse_channel(&text).ok_or_else(|| {
        format!(
            "no `channel = \"X.Y.Z\"` under [toolchain] in {}",
            path.display()
        )
    })
}

/// The channel that a rust-toolchain.toml names.
fn parse_channel(text: &str) -> Option<String> {
    let mut in_toolchain = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_toolchain = line == "[toolchain]";
        } else if in_toolchain
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "channel"
        {
            let value = value.split('#').next().unwrap_or_default().trim();
            let version = value.trim_matches(['"', '\'']);
            return (!version.is_empty()).then(|| version.to_owned());
        }
    }
    None
}

/// One `key: value` line of `rustc -vV`.
fn identity_field<'a>(identity: &'a str, key: &str) -> Option<&'a str> {
    identity
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

fn rustc(root: &Path, args: &[&str]) -> Result<String, String> {
    let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let next = "next: install Rust with rustup, then run `cargo xtask setup`";
    let output = Command::new(&program)
        .args(args)
        .current_dir(root)
        .output()
        .map_err(|error| format!("cannot run `{}`: {error}\n{next}", program.display()))?;
    if !output.status.success() {
        return Err(format!(
            "`{} {}` ended with {}: {}\n{next}",
            program.display(),
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The per-user folder for built tools: outside the project, so that a fresh clone is quick.
fn cache_root(root: &Path) -> Result<PathBuf, String> {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = folder("SWITCHER_TOOLCHAIN_DIR") {
        // A relative one is taken from the project: build scripts run elsewhere than xtask.
        return Ok(root.join(folder));
    }
    let base = folder("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| folder("HOME").map(|home| Path::new(&home).join(".cache")));
    base.map(|base| base.join("switcher")).ok_or_else(|| {
        "no place for the tools: none of SWITCHER_TOOLCHAIN_DIR, XDG_CACHE_HOME, HOME is set\n\
         next: set SWITCHER_TOOLCHAIN_DIR to a writable folder"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_is_read_from_its_section() {
        let text =
            "# channel = \"0\"\n[other]\nchannel = \"1\"\n[toolchain]\nchannel = '1.95.0' # why\n";
        assert_eq!(parse_channel(text).as_deref(), Some("1.95.0"));
    }

    #[test]
    fn a_missing_or_empty_channel_is_none() {
        assert_eq!(parse_channel("[toolchain]\nprofile = \"minimal\"\n"), None);
        assert_eq!(parse_channel("[toolchain]\nchannel = \"\"\n"), None);
        assert_eq!(parse_channel("channel = \"1.95.0\"\n"), None);
    }

    #[test]
    fn the_projects_own_pin_is_an_exact_version() {
        let version = parse_channel(include_str!("../../rust-toolchain.toml")).expect("the pin");
        assert_eq!(version.split('.').count(), 3, "{version}");
    }

    #[test]
    fn identity_fields_are_found_by_name() {
        let text = "rustc 1.95.0 (5980 2026)\nbinary: rustc\nhost: x86_64\nrelease: 1.95.0\n";
        assert_eq!(identity_field(text, "release"), Some("1.95.0"));
        assert_eq!(identity_field(text, "host"), Some("x86_64"));
        assert_eq!(identity_field(text, "absent"), None);
    }

    #[test]
    fn settings_for_the_host_are_told_from_general_ones() {
        for name in [
            "RUSTFLAGS",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_RUSTFLAGS",
            "CLIPPY_ARGS",
        ] {
            assert!(is_host_only(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_BUILD_JOBS", "CARGO_MAKEFLAGS", "PATH"] {
            assert!(!is_host_only(name), "{name}");
        }
    }
}
