//! The interfaces that the program is to be attached to.

use nix::unistd::{SysconfVar, sysconf};

use super::{Report, network::Network, offloads, report::Problem, shell_word};
use crate::{
    config::{AttachMode, Config},
    netlink::link::{Link, XdpProgram},
};

/// Bytes of a page that a packet in native mode cannot have: headroom, the buffer's trailer, and
/// what the drivers add (3498 bytes are left of a page of 4096; veth has 3506).
const NATIVE_OVERHEAD: u32 = 598;

pub(super) fn check(
    config: &Config,
    is_ours: &dyn Fn(u32) -> bool,
    network: &Network,
    report: &mut Report,
) {
    let agent = &config.agent;
    let missing = agent
        .interfaces
        .iter()
        .filter(|name| network.link_named(name).is_none());
    report.settle(
        "interface_exists",
        missing.map(|name| missing_interface(name)).collect(),
    );

    let links: Vec<&Link> = agent
        .interfaces
        .iter()
        .filter_map(|name| network.link_named(name))
        .collect();
    report.settle(
        "interface_up",
        links.iter().filter_map(|link| down(link)).collect(),
    );
    let largest = largest_native_mtu(page_size());
    let too_large =
        |link: &&Link| large_mtu(link, mtu_that_counts(link, network), largest, agent.mode);
    report.settle("mtu", links.iter().filter_map(too_large).collect());
    report.settle(
        "other_xdp",
        links
            .iter()
            .flat_map(|link| other_programs(link, is_ours))
            .collect(),
    );
    offloads::check(&links, agent.mode, network, report);
}

fn missing_interface(name: &str) -> Problem {
    let what = format!(
        "interface {name} does not exist in this network namespace; its traffic would never meet the program"
    );
    let mend = format!(
        "ip link show  # then name an interface that exists in [agent] interfaces instead of {}",
        shell_word(name)
    );
    Problem::fatal(what, mend)
}

fn down(link: &Link) -> Option<Problem> {
    let name = shell_word(&link.name);
    if !link.is_up {
        let what = format!(
            "interface {} is down; it neither receives nor sends",
            link.name
        );
        return Some(Problem::warning(what, format!("ip link set dev {name} up")));
    }
    if !link.has_carrier {
        let what = format!(
            "interface {} has no carrier; it neither receives nor sends",
            link.name
        );
        let mend = format!(
            "ip link show dev {name}  # then look at the cable, the switch, or the other end of the pair"
        );
        return Some(Problem::warning(what, mend));
    }
    None
}

/// A veth pair is bound by the end that does the sending.
fn mtu_that_counts(link: &Link, network: &Network) -> u32 {
    let peer = link.peer.and_then(|peer| network.link(peer));
    peer.map_or(link.mtu, |peer| peer.mtu.max(link.mtu))
}

fn large_mtu(link: &Link, mtu: u32, largest: u32, mode: AttachMode) -> Option<Problem> {
    if mtu <= largest {
        return None;
    }
    let what = match mode {
        AttachMode::Generic => return None,
        AttachMode::Native => "the driver refuses to attach",
        AttachMode::Auto => "generic mode is used, which is several times slower,",
    };
    let what = format!(
        "interface {} has MTU {mtu}; above {largest} {what} unless driver, kernel and program support multi-buffer packets",
        link.name
    );
    let mend = format!(
        "ip link set dev {} mtu {largest}  # on both ends of a veth pair",
        shell_word(&link.name)
    );
    Some(Problem::warning(what, mend))
}

fn largest_native_mtu(page_size: u32) -> u32 {
    page_size.saturating_sub(NATIVE_OVERHEAD)
}

/// The smallest page of any kernel where the system does not say.
fn page_size() -> u32 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u32::try_from(size).ok())
        .unwrap_or(4_096)
}

fn other_programs(link: &Link, is_ours: &dyn Fn(u32) -> bool) -> Vec<Problem> {
    let others = link.xdp.iter().filter(|program| !is_ours(program.id));
    others
        .map(|program| other_program(&link.name, *program))
        .collect()
}

fn other_program(name: &str, XdpProgram { id, keyword }: XdpProgram) -> Problem {
    let what = format!(
        "another XDP program, id {id}, is attached to interface {name}; the kernel runs only one, and attaching fails"
    );
    let name = shell_word(name);
    let mend = format!(
        "bpftool prog show id {id}  # whose is it? if nobody needs it: ip link set dev {name} {keyword} off, or bpftool link detach if a link holds it"
    );
    Problem::fatal(what, mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link {
            index: 2,
            name: "eth0".to_owned(),
            is_up: true,
            has_carrier: true,
            mtu: 1_500,
            ..Link::default()
        }
    }

    #[test]
    fn a_large_mtu_matters_unless_the_mode_is_generic() {
        let largest = largest_native_mtu(4_096);
        assert_eq!(largest, 3_498);
        assert!(large_mtu(&link(), 3_498, largest, AttachMode::Native).is_none());
        assert!(large_mtu(&link(), 9_000, largest, AttachMode::Native).is_some());
        assert!(large_mtu(&link(), 9_000, largest, AttachMode::Auto).is_some());
        assert!(large_mtu(&link(), 9_000, largest, AttachMode::Generic).is_none());
    }

    #[test]
    fn a_program_of_somebody_else_is_fatal_and_ours_is_not() {
        let mut link = link();
        link.xdp = [(7, "xdp"), (8, "xdpgeneric")]
            .map(|(id, keyword)| XdpProgram { id, keyword })
            .to_vec();
        let mut report = Report::default();
        report.settle("other_xdp", other_programs(&link, &|id| id == 7));
        assert!(report.is_fatal());
        let mends: Vec<_> = report
            .findings
            .iter()
            .map(|finding| finding.mend.as_str())
            .collect();
        assert_eq!(mends.len(), 1, "{mends:?}");
        assert!(
            mends[0].contains("id 8") && mends[0].contains("ip link set dev eth0 xdpgeneric off"),
            "{mends:?}"
        );
    }

    #[test]
    fn an_interface_without_carrier_is_told_from_one_that_is_down() {
        assert!(down(&link()).is_none());
        for (is_up, has_carrier) in [(false, false), (true, false)] {
            let mut report = Report::default();
            report.settle(
                "interface_up",
                down(&Link {
                    is_up,
                    has_carrier,
                    ..link()
                })
                .into_iter()
                .collect(),
            );
            let mend = &report.findings[0].mend;
            assert_eq!(mend == "ip link set dev eth0 up", !is_up, "{mend}");
        }
    }
}
