//! A configuration that cannot be meant: rejected as a whole, with file, line and reason.

use anyhow::Result;
use switcher_tests::{
    lab::Lab,
    node::{LabService, Node, configuration},
    skip_unless_lab,
};

use crate::refusal::{Refused, Traces};

/// Rejected configurations, each with what the message must say.
fn cases(lab: &Lab) -> Vec<(&'static str, String, Vec<String>)> {
    let good = configuration(lab, &[LabService::web(0)]);
    let (vip, blue) = (lab.vip4(0), lab.blue_backends_v4()[0]);
    let line_of = |text: &str, part: &str| {
        let line = text.lines().position(|line| line.contains(part));
        format!("line {}", line.map_or(0, |line| line + 1))
    };
    let unparseable = good.replace("port = 80\n", "port = eighty\n");
    let unknown_key = good.replace("[agent]\n", "[agent]\ncolour = \"blue\"\n");
    let second = format!(
        "{good}[[service]]\nname = \"shop\"\n[[service.listener]]\nname = \"again\"\nvip = \"{vip}\"\n\
         port = 80\nprotocol = \"tcp\"\nblue = [{{ address = \"{blue}\", port = 1 }}]\n"
    );
    let vip_as_backend = good.replacen(
        &format!("address = \"{blue}\""),
        &format!("address = \"{vip}\""),
        1,
    );
    let no_interface = good.replace(
        "interfaces = [\"c1\", \"c2\", \"b\", \"g\"]",
        "interfaces = []",
    );
    vec![
        (
            "TOML that does not parse",
            unparseable.clone(),
            vec![line_of(&unparseable, "eighty"), "eighty".to_owned()],
        ),
        (
            "an unknown key",
            unknown_key.clone(),
            vec![line_of(&unknown_key, "colour"), "colour".to_owned()],
        ),
        (
            "an endpoint of two listeners",
            second.clone(),
            vec![
                "service shop, listener again".to_owned(),
                "service web, listener tcp-v4".to_owned(),
                format!("vip {vip}, port 80 and protocol tcp"),
                "line ".to_owned(),
            ],
        ),
        (
            "a backend that is a VIP",
            vip_as_backend.clone(),
            vec![
                line_of(&vip_as_backend, &format!("address = \"{vip}\"")),
                "service web, listener tcp-v4".to_owned(),
                "vip of a listener".to_owned(),
            ],
        ),
        (
            "no interface",
            no_interface,
            vec!["line 2".to_owned(), "interfaces is empty".to_owned()],
        ),
    ]
}

#[test]
fn a_contradictory_configuration_is_rejected_with_its_line() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    for (what, text, words) in cases(&lab) {
        println!("{what}");
        let node = Node::configured(&lab, &text)?;
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let file = node.config().display().to_string();
        words.extend([file.as_str(), "switcher agent --check"]);
        Refused::start(&lab, &node).must_end(2, &words)?;
    }
    assert_eq!(Traces::of(&lab)?, Traces::none(&lab)?);
    Ok(())
}

#[test]
fn a_configuration_that_is_not_there_is_named() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let node = Node::configured(&lab, "")?;
    std::fs::remove_file(node.config())?;
    let file = node.config().display().to_string();
    Refused::start(&lab, &node).must_end(2, &[&file, "No such file"])?;
    assert_eq!(Traces::of(&lab)?, Traces::none(&lab)?);
    Ok(())
}
