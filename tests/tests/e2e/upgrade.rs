//! Another version of the agent (G4): it takes over what is pinned, replaces the program behind the same
//! links, and no packet is lost; one whose maps are others is refused before anything is touched.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::{Array, Map, MapData},
    programs::loaded_programs,
};
use switcher_common::{LAYOUT_VERSION, ProgramSlot, service::Color};
use switcher_tests::{
    bpf::{LinkIds, pinned_link},
    lab::Lab,
    node::Node,
    skip_unless_lab,
    traffic::tcp_retrans_segs,
};

use crate::{bad_pins::set_layout, mixed::Mixed, refusal::Refused};

/// What is pinned, as the kernel numbers it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pinned {
    maps: BTreeMap<String, u32>,
    links: BTreeMap<String, LinkIds>,
    /// Behind the dispatchers, by slot.
    programs: Vec<u32>,
    /// Digests of their instructions.
    tags: Vec<u64>,
}

impl Pinned {
    fn of(lab: &Lab) -> Result<Self> {
        lab.node().run(|| Self::here(&lab.bpffs().join("switcher")))
    }

    fn here(pins: &std::path::Path) -> Result<Self> {
        let mut maps = BTreeMap::new();
        for (name, path) in files(&pins.join("maps"))? {
            maps.insert(name, MapData::from_pin(path)?.info()?.id());
        }
        let mut links = BTreeMap::new();
        for (name, path) in files(&pins.join("links"))? {
            links.insert(name, pinned_link(&path)?);
        }
        // Read as a number, the slot of programs tells an id.
        let slots = MapData::from_pin(pins.join("maps/PROGRAMS"))?;
        let slots: Array<MapData, u32> = Map::Array(slots).try_into()?;
        let (mut programs, mut tags) = (Vec::new(), Vec::new());
        for slot in ProgramSlot::ALL {
            let name = slot.program();
            let id = slots.get(&(slot as u32), 0);
            let id = id.with_context(|| format!("{name} is not enabled"))?;
            let mut loaded = loaded_programs().filter_map(Result::ok);
            let info = loaded.find(|it| it.id() == id);
            let info = info.with_context(|| format!("{name}, {id}, is not loaded"))?;
            ensure!(
                info.name_as_str() == Some(name),
                "{info:?} is in the slot of {name}"
            );
            programs.push(id);
            tags.push(info.tag());
        }
        Ok(Self {
            maps,
            links,
            programs,
            tags,
        })
    }

    /// An error unless everything but the program is what it was.
    fn kept_all_of(&self, before: &Self) -> Result<()> {
        ensure!(
            self.maps == before.maps && self.links == before.links,
            "{self:?}, it was {before:?}"
        );
        Ok(())
    }
}

fn files(dir: &std::path::Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ))
        })
        .collect()
}

fn retransmitted(lab: &Lab) -> Result<u64> {
    let hosts = [lab.client(), lab.client2(), lab.blue(), lab.green()];
    hosts.into_iter().map(tcp_retrans_segs).sum()
}

/// How the agent before ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Stopped,
    Killed,
}

fn replace(node: &mut Node<'_>, end: End, mixed: &Mixed) -> Result<()> {
    match end {
        End::Stopped => node.stop_agent()?,
        End::Killed => node.kill_agent()?,
    }
    mixed.goes_on()?;
    node.start_agent()
}

#[test]
fn g4_another_build_replaces_the_program_behind_the_same_links_and_nothing_is_lost() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    node.flip(&["web"], Color::Green)?;
    let mixed = Mixed::start(&lab)?;
    let sent_again = retransmitted(&lab)?;
    let first = Pinned::of(&lab)?;
    ensure!(
        !first.links.is_empty() && !first.maps.is_empty(),
        "{first:?}"
    );
    // There and back again, and there.
    let mut other = node.install_another()?;
    let mut before = first.clone();
    for (upgrade, end) in [End::Stopped, End::Killed, End::Stopped]
        .into_iter()
        .enumerate()
    {
        replace(&mut node, end, &mixed)?;
        mixed.goes_on()?;
        let after = Pinned::of(&lab)?;
        after.kept_all_of(&first)?;
        let mut replaced = after.programs.iter().zip(&before.programs);
        ensure!(
            replaced.all(|(after, before)| after != before) && after.tags != before.tags,
            "upgrade {upgrade}: the same program: {after:?}, it was {before:?}"
        );
        let is_first_build = upgrade % 2 == 1;
        ensure!((after.tags == first.tags) == is_first_build, "{after:?}");
        let web = node.service("web")?;
        ensure!(web["active"] == "green" && web["generation"] == 1, "{web}");
        other = node.install(other);
        before = after;
    }
    // What was taken over can be switched.
    node.flip(&["web"], Color::Blue)?;
    mixed.goes_on()?;
    let again = retransmitted(&lab)? - sent_again;
    ensure!(again == 0, "{again} TCP segments were sent again");
    mixed.ends_clean()
}

#[test]
fn g4_a_version_with_other_maps_is_refused_before_anything_is_touched_and_traffic_goes_on()
-> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let mut node = crate::start(&lab)?;
    let mixed = Mixed::start(&lab)?;
    let sent_again = retransmitted(&lab)?;
    node.stop_agent()?;
    let build = node.install_another()?;
    let another = LAYOUT_VERSION + 1;
    set_layout(&lab, another)?;
    let before = Pinned::of(&lab)?;
    let found = format!("layout {another}");
    Refused::start(&lab, &node).must_end(8, &[&found, "switcher detach"])?;
    let after = Pinned::of(&lab)?;
    ensure!(after == before, "touched: {after:?}, it was {before:?}");
    mixed.goes_on()?;
    // The version that fits goes on as if nothing had been.
    set_layout(&lab, LAYOUT_VERSION)?;
    node.install(build);
    node.start_agent()?;
    Pinned::of(&lab)?.kept_all_of(&before)?;
    mixed.goes_on()?;
    let again = retransmitted(&lab)? - sent_again;
    ensure!(again == 0, "{again} TCP segments were sent again");
    mixed.ends_clean()
}
