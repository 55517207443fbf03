//! `docs/RELEASE.md`, executed: an operator's releases with two nginx, while visitors use the service.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab, Skip, Topology, report_skip},
    node::Node,
    skip_unless_lab,
    traffic::{Client, Load, Page, Stats, Visits},
    walkthrough::{Document, Machines, Shell},
};

use crate::mixed::LIMIT;

const PAGE: &str = include_str!("../../../docs/RELEASE.md");
/// The page's file for the agent.
const AGENT_FILE: &str = "/etc/switcher/switcher.toml";
/// The page's file for both backends.
const NGINX_FILE: &str = "/etc/nginx/nginx.conf";
/// Port of the service.
const PORT: u16 = 80;
/// Visits that each visitor makes after a section.
const ENOUGH: usize = 20;
const VISITS: Visits = Visits {
    visitors: 4,
    interval: Duration::from_millis(10),
    timeout: Duration::from_secs(10),
};

/// The page's hosts: one backend of each color, and interfaces that are called as on most nodes.
fn lab() -> Result<Lab> {
    let mut topology = Topology::two_colors(1);
    let names = ["eth0", "eth1", "eth2", "eth3"];
    for (link, name) in topology.links.iter_mut().zip(names) {
        link.node_interface = name;
    }
    // 192.0.2.10 is the tenth.
    topology.vip_count = 10;
    Lab::builder().topology(topology).build()
}

/// What keeps the page from being executed here.
fn missing() -> Option<Skip> {
    let needed = [("nginx", "-v"), ("nsenter", "-V"), ("unshare", "-V")];
    let is_missing = |(command, argument): &(&str, &str)| {
        let mut command = Command::new(command);
        command
            .arg(argument)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        !command.status().is_ok_and(|status| status.success())
    };
    let (command, _) = needed.into_iter().find(is_missing)?;
    let reason = format!("needs {command}: install it, `.ci/run` does");
    Some(Skip { reason })
}

/// The hosts of the page, with its files on them, and the agent with its configuration.
fn set_up<'lab>(lab: &'lab Lab, page: &Document) -> Result<(Machines, Shell<'lab>, Node<'lab>)> {
    let monitor = IpAddr::from([10, 2, 0, 2]);
    let of = |color| lab.backends(color, Family::V4);
    let backends = [of(Color::Blue), of(Color::Green)].concat();
    let commands = lab.dir().join("bin");
    std::fs::create_dir(&commands)?;
    let machines = Machines::start(lab, &[&[monitor], &backends[..]].concat(), &commands)?;
    let mut node = Node::configured(lab, &configuration(lab, page)?)?;
    std::os::unix::fs::symlink(node.command().get_program(), commands.join("switcher"))?;
    let mut path = OsString::from(&commands);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let variables = vec![("PATH", path), ("SWITCHER_SOCKET", node.socket().into())];
    let directory = lab.dir().join("work");
    std::fs::create_dir(&directory)?;
    let mut shell = Shell::new(lab, &directory, variables);
    for file in &page.files {
        match file.name.as_str() {
            AGENT_FILE => {}
            NGINX_FILE => {
                shell.write("nginx.conf", &file.text)?;
                for backend in &backends {
                    let copy = format!("on-host {backend} tee {NGINX_FILE} < nginx.conf");
                    let said = shell.run(&copy)?;
                    ensure!(said == file.text, "`{copy}` said: {said}");
                }
            }
            name if name.starts_with('/') => bail!("nobody brings {name} to its host"),
            name => shell.write(name, &file.text)?,
        }
    }
    node.start_agent()?;
    Ok((machines, shell, node))
}

/// The page's configuration, with the lab's directories and small tables.
fn configuration(lab: &Lab, page: &Document) -> Result<String> {
    let dir = lab.dir().display();
    let agent = format!(
        "[agent]\nsocket = \"{dir}/switcher.sock\"\npin_dir = \"{}/switcher\"\nstate_dir = \"{dir}/state\"\n",
        lab.bpffs().display()
    );
    let limits = "[agent.limits]\nflows = 65536\nunanswered = 16384\n\n[[service]]\n";
    let mut text = page.file(AGENT_FILE)?.to_owned();
    for (shown, instead) in [("[agent]\n", agent.as_str()), ("[[service]]\n", limits)] {
        ensure!(text.contains(shown), "no {shown:?} in {text}");
        text = text.replacen(shown, instead, 1);
    }
    Ok(text)
}

/// The sections of the page, and what visitors are shown after each.
const SECTIONS: [(&str, &str); 7] = [
    ("The first version", "version 1.0"),
    ("A good version", "version 1.1"),
    ("A version that does not pass its smoke test", "version 1.1"),
    ("A version whose fault shows after the flip", "version 1.1"),
    ("Two live copies", "version 1.4"),
    ("A flip with data that must be copied first", "version 1.4"),
    ("What has happened", "version 1.4"),
];
/// Active for a moment only.
const TAKEN_BACK: &str = "version 1.3";
/// What a visitor is shown from the beginning to the end, each as often as he comes meanwhile.
const SHOWN: [&str; 5] = [
    "version 1.0",
    "version 1.1",
    TAKEN_BACK,
    "version 1.1",
    "version 1.4",
];

/// The version that a visitor was shown; of the page's versions only this one turns visitors away, with 503.
fn version(page: &Page) -> String {
    match page.status {
        200 => page.body.trim_end().to_owned(),
        503 => TAKEN_BACK.to_owned(),
        status => format!("status {status}"),
    }
}

/// Waits until each visitor has come [`ENOUGH`] times from now on, and was shown nothing but `wanted`.
fn only(visitors: &Load, wanted: &str) -> Result<()> {
    let before = visitors.read(|stats| stats.visitors.iter().map(Vec::len).collect::<Vec<_>>());
    // A visit that is under way may have begun before.
    let since = |stats: &Stats| -> Vec<Vec<Page>> {
        let each = stats.visitors.iter().zip(&before);
        each.map(|(pages, before)| pages.iter().skip(before + 1).cloned().collect())
            .collect()
    };
    visitors.wait_until(LIMIT, |stats| {
        let mut each = stats.visitors.iter().zip(&before);
        each.all(|(pages, before)| pages.len() > before + ENOUGH)
    })?;
    for page in visitors.read(since).iter().flatten() {
        ensure!(
            version(page) == wanted,
            "{wanted} is active, shown was {page:?}"
        );
    }
    Ok(())
}

/// What a visitor was shown, without repetitions.
fn phases(pages: &[Page]) -> Vec<String> {
    let mut versions: Vec<String> = pages.iter().map(version).collect();
    versions.dedup();
    versions
}

#[test]
fn a_release_goes_as_the_page_for_operators_says() -> Result<()> {
    skip_unless_lab!(Ok(()));
    if let Some(skip) = missing() {
        report_skip(
            "walkthrough::a_release_goes_as_the_page_for_operators_says",
            &skip,
        );
        return Ok(());
    }
    let page = Document::parse(PAGE)?;
    let titles = page.sections.iter().map(|section| section.title.as_str());
    ensure!(
        titles.eq(SECTIONS.map(|(title, _)| title)),
        "the page has other sections: {:?}",
        page.sections
    );
    let lab = lab()?;
    let (_machines, mut shell, _node) = set_up(&lab, &page)?;
    let mut visitors = None;
    for (section, (_, shown)) in page.sections.iter().zip(SECTIONS) {
        shell.carry_out(section)?;
        // They come once there is something to see.
        let visitors = visitors.get_or_insert_with(|| {
            let vip = SocketAddr::new(lab.vip4(9), PORT);
            Client::new(lab.client()).visits(vip, VISITS)
        });
        only(visitors, shown)?;
    }
    let stats = visitors.context("the page has sections")?.finish();
    ensure!(stats.is_clean(), "{:?}", stats.samples);
    let seen = stats.visitors.iter().map(|pages| phases(pages));
    let seen: Vec<Vec<String>> = seen.collect();
    for phases in &seen {
        // A visitor may not have come in the moment in which the one that was taken back was active.
        ensure!(
            *phases == SHOWN || *phases == ["version 1.0", "version 1.1", "version 1.4"],
            "a visitor was shown {phases:?}"
        );
    }
    ensure!(
        seen.iter().any(|phases| *phases == SHOWN),
        "no visitor came while {TAKEN_BACK} was active"
    );
    Ok(())
}
