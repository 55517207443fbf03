//! A node that the agent cannot work on: refused with what, where and the next step.

use anyhow::{Result, ensure};
use serde_json::Value;
use switcher_tests::{
    lab::{Lab, add_link},
    node::{LabService, Node, configuration},
    skip_unless_lab,
};

use crate::refusal::{Refused, Traces};

const INTERFACES: &str = "interfaces = [\"c1\", \"c2\", \"b\", \"g\"]";

fn good(lab: &Lab) -> String {
    configuration(lab, &[LabService::web(0)])
}

/// The good configuration with `interfaces` instead of its own.
fn on(lab: &Lab, interfaces: &str) -> String {
    good(lab).replace(INTERFACES, &format!("interfaces = [{interfaces}]"))
}

#[test]
fn an_unfit_node_is_refused_and_nothing_attached() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let local = lab.topology().links[0].node_address(switcher_tests::lab::Family::V4);
    let blue = lab.blue_backends_v4()[0];
    let tmpfs = lab.dir().join("pins").display().to_string();
    let pin_dir = format!("pin_dir = \"{}/switcher\"", lab.bpffs().display());
    let local_backend = good(&lab).replace(&blue.to_string(), &local.to_string());
    let no_bpffs = good(&lab).replace(&pin_dir, &format!("pin_dir = \"{tmpfs}\""));
    let rows: [(String, &[&str]); 4] = [
        (
            on(&lab, "\"nowhere\""),
            &["interface nowhere does not exist", "ip link"],
        ),
        (
            on(&lab, "\"c1\", \"nowhere\""),
            &["interface nowhere does not exist"],
        ),
        (local_backend, &[&local.to_string(), "this node"]),
        (no_bpffs, &[&tmpfs, "not a bpffs", "mount -t bpf"]),
    ];
    for (text, words) in rows {
        println!("{words:?}");
        let node = Node::configured(&lab, &text)?;
        Refused::start(&lab, &node).must_end(3, words)?;
    }
    assert_eq!(Traces::of(&lab)?, Traces::none(&lab)?);
    Ok(())
}

#[test]
fn when_the_second_interface_cannot_be_attached_the_first_does_not_stay() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    // Native mode takes no frame that is larger than a page.
    add_link(lab.node(), "big", lab.client(), "big", 9000)?;
    let node = Node::configured(&lab, &on(&lab, "\"c1\", \"big\""))?;
    Refused::start(&lab, &node).must_end(8, &["attaching to big", "generic"])?;
    assert_eq!(Traces::of(&lab)?, Traces::none(&lab)?);
    Ok(())
}

#[test]
fn a_check_tells_its_findings_and_changes_nothing() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut node = Node::configured(&lab, &good(&lab))?;
    let check = |json: &[&str]| {
        let arguments = [&["--check"], json].concat();
        node.agent_that_ends(node.config(), &arguments, None)
    };
    let fine = check(&["--json"])?;
    ensure!(fine.code == 0, "{fine:?}");
    let passed = fine.object()?["passed"].clone();
    for name in [
        "rights",
        "bpffs",
        "btf",
        "mtu",
        "ip_forward",
        "backend_route",
    ] {
        ensure!(has(&passed, name), "{name} is not in {passed}");
    }
    lab.node().set_sysctl("net/ipv4/ip_forward", "0")?;
    node.reconfigure(&on(&lab, "\"c1\", \"nowhere\""))?;
    let object = check(&["--json"])?;
    ensure!(object.code == 3, "{object:?}");
    let findings = object.object()?["findings"].clone();
    for (name, words) in [
        ("interface_exists", "nowhere"),
        ("ip_forward", "ip_forward"),
    ] {
        let found = findings.as_array().into_iter().flatten();
        let mut found = found.filter(|finding| finding["check"] == name);
        let text = found.next().map(Value::to_string).unwrap_or_default();
        ensure!(text.contains(words), "no {name} in {findings}");
    }
    let text = check(&[])?;
    ensure!(text.code == 3, "{text:?}");
    for words in [
        "interface nowhere does not exist",
        "sysctl -w net.ipv4.ip_forward=1",
    ] {
        ensure!(text.stdout.contains(words), "no {words:?} in {text:?}");
    }
    assert_eq!(Traces::of(&lab)?, Traces::none(&lab)?);
    // What is right for a check is right for a start.
    lab.node().set_sysctl("net/ipv4/ip_forward", "1")?;
    node.reconfigure(&good(&lab))?;
    node.start_agent()
}

fn has(list: &Value, name: &str) -> bool {
    let mut names = list.as_array().into_iter().flatten();
    names.any(|it| it == name)
}
