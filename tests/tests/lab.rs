//! The lab keeps its promises: it carries traffic, and nothing of it remains.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use switcher_tests::lab::{FAR_INTERFACE, Lab, add_link};
use switcher_tests::skip_unless_lab;

/// Generous: the kernel takes namespaces apart in the background.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn hosts_have_interfaces_parameters_and_a_bpffs_of_their_own() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().vip_count(5).mtu(3000).build()?;
    assert_eq!(lab.node().interface("c1")?.mtu, 3000);
    assert_eq!(lab.node().sysctl("net/ipv4/ip_forward")?, "1");
    assert_eq!(lab.node().sysctl("net/ipv4/conf/b/accept_local")?, "1");
    let names = lab.node().run(|| {
        std::fs::read_dir("/sys/class/net")?
            .map(|it| Ok(it?.file_name()))
            .collect::<std::io::Result<BTreeSet<_>>>()
    })?;
    assert_eq!(names, ["b", "c1", "c2", "g", "lo"].map(Into::into).into());
    let directory = lab.bpffs().join("here");
    lab.node().run(|| std::fs::create_dir(&directory))?;
    assert!(!directory.exists(), "the bpffs is seen outside");
    assert!(
        lab.blue()
            .run(|| std::path::Path::new("/sys/fs/bpf/here").exists())
    );
    Ok(())
}

#[test]
fn namespaces_are_gone_after_drop() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (observer, observed) = (Lab::builder().build()?, Lab::builder().build()?);
    // The kernel removes this end together with the other one, and that with its namespace.
    add_link(observer.node(), "watch", observed.node(), "watched", 1500)?;
    let directory = observed.dir().to_owned();
    drop(observed);
    observer.node().wait_for_no_interface("watch", LIMIT)?;
    assert!(!directory.exists());
    observer.node().interface("c1")?;
    observer.client().interface(FAR_INTERFACE)?;
    Ok(())
}
