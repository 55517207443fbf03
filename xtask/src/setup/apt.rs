//! Packages through apt and its signature checks, but with lists and cache of our own, so that nothing of
//! the system changes: one from a Debian suite that the system does not use, or some from its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::process::{find_program, run_kept_back, say};

const LIMIT: Duration = Duration::from_mins(10);
const SOURCES_FOLDER: &str = "/etc/apt";

/// An archive that the system trusts: where it is and which keys sign it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    uri: String,
    /// The field's value as it stands in the source: a file, or an indented key block.
    signed_by: Option<String>,
}

/// One entry of apt's sources.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

/// Downloads `package` of the upstream version from `suite` into the empty folder `work`.
pub(super) fn download(package: &str, upstream: &str, suite: &str, work: &Path) -> Result<PathBuf> {
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        if find_program(program).is_none() {
            bail!("`{program}` is not on the PATH (this is no Debian system)");
        }
    }
    let archives = system_archives()?;
    let mut failures = Vec::new();
    for (number, archive) in archives.iter().enumerate() {
        let apt = Apt::create(work.join(number.to_string()), archive, suite)?;
        match apt.download(package, upstream) {
            Ok(file) => return Ok(file),
            Err(error) => failures.push(format!("{}: {error:#}", archive.uri)),
        }
    }
    bail!("{}", failures.join("\n"))
}

/// Downloads `packages` of the system's own suite, and what they need beside what is installed, into the empty
/// folder `work`.
pub(super) fn download_with_dependencies(packages: &[&str], work: &Path) -> Result<Vec<PathBuf>> {
    for program in ["apt-get", "dpkg-deb"] {
        if find_program(program).is_none() {
            bail!("`{program}` is not on the PATH (this is no Debian system)");
        }
    }
    let archives = work.join("cache/archives");
    for part in [&work.join("lists/partial"), &archives.join("partial")] {
        fs::create_dir_all(part).with_context(|| format!("cannot create {}", part.display()))?;
    }
    say("reading the package lists");
    run_kept_back(
        "reading the package lists",
        isolated(work, "apt-get").arg("update"),
        LIMIT,
    )?;
    say(&format!("downloading {}", packages.join(", ")));
    let mut download = isolated(work, "apt-get");
    // The lock is the system's, and nothing is installed.
    download.args(["-o", "Debug::NoLocking=1", "--yes", "--download-only"]);
    download.args(["--no-install-recommends", "install"]);
    download.args(packages);
    run_kept_back("downloading packages", &mut download, LIMIT)?;
    package_files(&archives)
}

/// A command of apt with lists and cache in `folder`.
fn isolated(folder: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("LC_ALL", "C");
    for (option, part) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
        let path = folder.join(part);
        command
            .arg("-o")
            .arg(format!("{option}={}", path.display()));
    }
    // An update that fails must fail the command; apt's own default is a warning.
    command.args(["-o", "APT::Update::Error-Mode=any"]);
    // The download user of apt cannot write to the folder of this user.
    command.args(["-o", "APT::Sandbox::User=root"]);
    command
}

/// apt with a single source.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn create(folder: PathBuf, archive: &Archive, suite: &str) -> Result<Self> {
        for part in ["parts", "lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        let source = folder.join("parts/suite.sources");
        fs::write(&source, archive.stanza(suite))
            .with_context(|| format!("cannot write {}", source.display()))?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = isolated(&self.folder, program);
        let parts = self.folder.join("parts");
        command
            .arg("-o")
            .arg(format!("Dir::Etc::SourceParts={}", parts.display()));
        command.args(["-o", "Dir::Etc::SourceList=/dev/null"]);
        command
    }

    fn download(&self, package: &str, upstream: &str) -> Result<PathBuf> {
        say("reading the package list");
        run_kept_back(
            "reading the package list",
            self.command("apt-get").arg("update"),
            LIMIT,
        )?;
        let offered = run_kept_back(
            "looking for the package",
            self.command("apt-cache").args(["madison", package]),
            LIMIT,
        )?;
        let Some(version) = matching_version(&offered, upstream) else {
            bail!("wanted {package} {upstream}, the archive offers:\n{offered}");
        };
        say(&format!("downloading {package} {version}"));
        run_kept_back(
            "downloading the package",
            self.command("apt-get")
                .args(["download", &format!("{package}={version}")]),
            LIMIT,
        )?;
        find_package_file(&self.folder)
    }
}

impl Archive {
    fn stanza(&self, suite: &str) -> String {
        let mut stanza = format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n",
            self.uri
        );
        // Without the field apt takes the keys that the system trusts for every source.
        if let Some(keys) = &self.signed_by {
            stanza.extend(["Signed-By: ", keys, "\n"]);
        }
        stanza
    }
}

fn find_package_file(folder: &Path) -> Result<PathBuf> {
    package_files(folder)?
        .pop()
        .with_context(|| format!("apt-get left no package file in {}", folder.display()))
}

fn package_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths
        .filter(|path| path.extension().is_some_and(|it| it == "deb"))
        .collect())
}

/// The archives of the distribution itself, from apt's source files.
fn system_archives() -> Result<Vec<Archive>> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let codename = codename(&release);
    let archives = distribution_archives(&read_sources(), codename);
    if archives.is_empty() {
        bail!(
            "no source for the suite {} with the component main in {SOURCES_FOLDER}",
            codename.unwrap_or("of this system")
        );
    }
    Ok(archives)
}

fn read_sources() -> Vec<Source> {
    let folder = Path::new(SOURCES_FOLDER);
    let mut files = vec![folder.join("sources.list")];
    if let Ok(entries) = fs::read_dir(folder.join("sources.list.d")) {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            Some("sources") => sources.extend(parse_stanzas(&text)),
            _ => {}
        }
    }
    sources
}

/// Other vendors' archives and the security archive have no backports, so they are left out.
fn distribution_archives(sources: &[Source], codename: Option<&str>) -> Vec<Archive> {
    let mut archives = Vec::new();
    for source in sources {
        let is_distribution = source.suites.iter().any(|suite| {
            Some(suite.as_str()) == codename
                || matches!(suite.as_str(), "stable" | "testing" | "unstable" | "sid")
        });
        if !is_distribution || !source.components.iter().any(|name| name == "main") {
            continue;
        }
        for uri in source.uris.iter().filter(|uri| !uri.starts_with("cdrom:")) {
            let archive = Archive {
                uri: uri.clone(),
                signed_by: source.signed_by.clone(),
            };
            if !archives.contains(&archive) {
                archives.push(archive);
            }
        }
    }
    archives
}

/// Parses the one-line format: `deb [option=value ..] uri suite component ..`.
fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    Some(Source {
        uris: vec![words.next()?.to_owned()],
        suites: vec![words.next()?.to_owned()],
        components: words.map(str::to_owned).collect(),
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(|keys| keys.replace(',', " ")),
    })
}

/// Parses the deb822 format: stanzas of `Field: value`, where indented lines continue a value.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(source_from_fields(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn source_from_fields(fields: &[(String, String)]) -> Option<Source> {
    let field = |wanted: &str| {
        let (_, value) = fields.iter().find(|(name, _)| name == wanted)?;
        Some(value.as_str())
    };
    let words = |name| -> Option<Vec<String>> {
        Some(field(name)?.split_whitespace().map(str::to_owned).collect())
    };
    let is_enabled = field("enabled").is_none_or(|value| !value.eq_ignore_ascii_case("no"));
    if !is_enabled || !words("types")?.iter().any(|name| name == "deb") {
        return None;
    }
    Some(Source {
        uris: words("uris")?,
        suites: words("suites")?,
        components: words("components").unwrap_or_default(),
        signed_by: field("signed-by").map(str::to_owned),
    })
}

fn codename(os_release: &str) -> Option<&str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"'))
}

/// The package version of exactly this upstream version, from `apt-cache madison`'s table.
fn matching_version<'a>(table: &'a str, upstream: &str) -> Option<&'a str> {
    table
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| version.split(['+', '-', '~']).next() == Some(upstream))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "\
Types: deb
# a comment inside
URIs: http://mirror.example/archive
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/example.gpg

Types: deb
URIs: http://mirror.example/archive-security
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://mirror.example/archive
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/archive
Suites: bookworm
Components: main

types: deb
uris: http://vendor.example/apt
suites: bookworm
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 key
";

    fn archive(uri: &str, signed_by: Option<&str>) -> Archive {
        Archive {
            uri: uri.to_owned(),
            signed_by: signed_by.map(str::to_owned),
        }
    }

    #[test]
    fn archives_are_found_in_stanzas() {
        let sources = parse_stanzas(STANZAS);
        assert_eq!(sources.len(), 3);
        let key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n key";
        assert_eq!(
            distribution_archives(&sources, Some("bookworm")),
            [
                archive(
                    "http://mirror.example/archive",
                    Some("/usr/share/keyrings/example.gpg")
                ),
                archive("http://vendor.example/apt", Some(key)),
            ]
        );
    }

    #[test]
    fn archives_are_found_in_lines() {
        let text = "\
# deb http://comment.example/archive bookworm main
deb http://mirror.example/archive bookworm main contrib # why
deb [arch=amd64 signed-by=/a.gpg,/b.gpg] http://signed.example/archive bookworm main
deb-src http://source.example/archive bookworm main
deb http://vendor.example/apt cloud-sdk-bookworm main
deb cdrom:[Debian]/ bookworm main
debris http://mirror.example/archive bookworm main
deb http://incomplete.example
";
        let sources: Vec<_> = text.lines().filter_map(parse_line).collect();
        assert_eq!(
            distribution_archives(&sources, Some("bookworm")),
            [
                archive("http://mirror.example/archive", None),
                archive("http://signed.example/archive", Some("/a.gpg /b.gpg")),
            ]
        );
    }

    #[test]
    fn the_stanza_keeps_a_key_block_whole() {
        let text = archive("http://m.example/d", Some("\n BEGIN\n END")).stanza("suite-x");
        assert_eq!(
            text,
            "Types: deb\nURIs: http://m.example/d\nSuites: suite-x\nComponents: main\n\
             Signed-By: \n BEGIN\n END\n"
        );
    }

    #[test]
    fn the_exact_upstream_version_is_chosen() {
        let table = "\
  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://m.example/archive suite/main amd64 Packages
  rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://m.example/archive suite/main amd64 Packages
";
        assert_eq!(
            matching_version(table, "1.95.0"),
            Some("1.95.0+dfsg1-2~bpo13+1")
        );
        assert_eq!(matching_version(table, "1.9"), None);
        assert_eq!(matching_version("", "1.95.0"), None);
    }

    #[test]
    fn the_codename_is_read() {
        assert_eq!(
            codename("ID=debian\nVERSION_CODENAME=bookworm\n"),
            Some("bookworm")
        );
        assert_eq!(codename("ID=debian\n"), None);
    }
}
