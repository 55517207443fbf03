//! What is pinned or on disk already and does not fit: refused, and left as it was.

use std::fs;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use switcher_common::LAYOUT_VERSION;
use switcher_tests::{
    lab::Lab,
    node::{LabService, Node, configuration},
    skip_unless_lab,
};

use crate::refusal::{Refused, Traces};

fn services() -> Vec<LabService> {
    vec![LabService::web(0)]
}

/// The configuration of a second agent, with files of its own but for what `replace` keeps.
fn second(lab: &Lab) -> String {
    configuration(lab, &services())
        .replace("switcher.sock", "second.sock")
        .replace("/state\"", "/second\"")
}

#[test]
fn a_second_agent_on_the_same_pin_directory_is_refused_and_the_first_goes_on() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut node = Node::start(&lab, &services())?;
    let pins = lab.bpffs().join("switcher").display().to_string();
    Refused::start(&lab, &node)
        .with(&second(&lab))?
        .must_end(4, &["another agent", &pins, "stop"])?;
    // With the very same file it is the socket that tells.
    let socket = node.socket().display().to_string();
    Refused::start(&lab, &node).must_end(4, &["another agent", &socket, "stop"])?;
    node.status().context("the first agent")?;
    node.stop_agent()
}

#[test]
fn another_xdp_program_on_an_interface_is_refused_and_stays() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let on_c2 = |text: &str| text.replace("\"c1\", \"c2\", \"b\", \"g\"", "\"c2\"");
    // To an agent with other pins, the program of the first one is somebody else's.
    let node = Node::configured(&lab, &on_c2(&configuration(&lab, &services())))?;
    let mut first = node;
    first.start_agent()?;
    let other_pins = second(&lab).replace("/switcher\"", "/second\"");
    Refused::start(&lab, &first).with(&other_pins)?.must_end(
        3,
        &["another XDP program", "interface c2", "ip link set dev c2"],
    )?;
    ensure!(Traces::of(&lab)?.attached.keys().eq(["c2"]), "c2 alone");
    first.stop_agent()
}

#[test]
fn pins_of_another_layout_are_refused_and_left_alone() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut node = Node::start(&lab, &services())?;
    node.stop_agent()?;
    set_layout(&lab, LAYOUT_VERSION + 1)?;
    let found = format!("layout {}", LAYOUT_VERSION + 1);
    let expected = format!("layout {LAYOUT_VERSION}");
    Refused::start(&lab, &node).must_end(8, &[&found, &expected, "switcher detach"])?;
    // Its flows cannot be counted, so only force detaches it, whatever the version.
    let before = Traces::of(&lab)?;
    let (reply, code) = node.detach(&[])?;
    ensure!(code == 8 && reply["changed"] == false, "{reply}");
    ensure!(Traces::of(&lab)? == before, "detached: {reply}");
    let (reply, code) = node.detach(&["--force"])?;
    ensure!(code == 0 && reply["changed"] == true, "{reply}");
    let left = Traces::of(&lab)?;
    ensure!(left.attached.is_empty() && left.pins.is_empty(), "{left:?}");
    node.start_agent()
}

/// Writes the layout's number into the record that the pins carry.
pub(crate) fn set_layout(lab: &Lab, layout: u32) -> Result<()> {
    let pin = lab.bpffs().join("switcher/maps/META");
    lab.node().run(|| {
        let map = Map::from_map_data(MapData::from_pin(&pin)?)?;
        let mut meta: Array<MapData, [u32; 9]> = map.try_into()?;
        let mut record = meta.get(&0, 0)?;
        record[0] = layout;
        meta.set(0, record, 0)?;
        Ok(())
    })
}

#[test]
fn limits_that_differ_from_the_pinned_ones_are_refused_with_both_numbers() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let good = configuration(&lab, &services());
    let mut node = Node::start(&lab, &services())?;
    node.stop_agent()?;
    node.reconfigure(&good.replace("flows = 65536", "flows = 1024"))?;
    Refused::start(&lab, &node).must_end(2, &["flows", "65536", "1024", "switcher detach"])?;
    node.reconfigure(&good)?;
    node.start_agent()
}

#[test]
fn a_damaged_state_file_is_refused_with_and_without_pins() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let state = lab.dir().join("state/state.json");
    let name = state.display().to_string();
    let mut node = Node::configured(&lab, &configuration(&lab, &services()))?;
    fs::create_dir(lab.dir().join("state"))?;
    fs::write(&state, "{\"version\": 1, \"boot")?;
    Refused::start(&lab, &node).must_end(1, &[&name, "damaged", "restore it"])?;
    ensure!(
        Traces::of(&lab)?.attached.is_empty(),
        "something is attached"
    );
    fs::remove_file(&state)?;
    node.start_agent()?;
    node.stop_agent()?;
    let whole = fs::read(&state)?;
    fs::write(&state, &whole[..whole.len() / 2])?;
    Refused::start(&lab, &node).must_end(1, &[&name, "damaged", "restore it"])?;
    fs::write(&state, whole)?;
    node.start_agent()
}
