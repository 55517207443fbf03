//! Servers, clients and the lab's plain forwarding, before any switcher is involved.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use switcher_common::service::Color;
use switcher_tests::lab::{Family, Lab, Role, Router, Topology};
use switcher_tests::skip_unless_lab;
use switcher_tests::traffic::{
    BULK_PORT, Backends, Client, Datagrams, ECHO_PORT, EchoServer, HTTP_PORT, HttpNew, Identity,
    KeepAlive, LongLived, PathMtus, UdpFlows, UdpLongLived, tcp_retrans_segs, transfer,
};

/// Generous, for a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(20);
/// MTU of a narrow link, in bytes.
const NARROW: u32 = 1_380;

#[test]
fn clients_reach_both_colors_through_the_node() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let _backends = Backends::start(&lab)?;
    carries_traffic(&lab)
}

#[test]
fn neighbours_can_be_left_to_arp_and_ndp() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().permanent_neighbours(false).build()?;
    let _backends = Backends::start(&lab)?;
    carries_traffic(&lab)
}

/// All loads, from both clients to both colors in both families, without any loss.
fn carries_traffic(lab: &Lab) -> Result<()> {
    let mut loads = Vec::new();
    for host in [lab.client(), lab.client2()] {
        let client = Client::new(host);
        for (color, family) in [
            (Color::Blue, Family::V4),
            (Color::Blue, Family::V6),
            (Color::Green, Family::V4),
            (Color::Green, Family::V6),
        ] {
            for (backend, address) in (0..).zip(lab.backends(color, family)) {
                let wanted = Identity { color, backend };
                let echo = SocketAddr::new(address, ECHO_PORT);
                let http = SocketAddr::new(address, HTTP_PORT);
                let keep = KeepAlive {
                    requests_per_connection: Some(3),
                    ..KeepAlive::default()
                };
                loads.extend([
                    (wanted, client.long_lived(echo, LongLived::default())),
                    (wanted, client.udp_long_lived(echo, UdpLongLived::default())),
                    (wanted, client.udp_flows(echo, UdpFlows::per_second(20))),
                    (wanted, client.http_new(http, HttpNew::per_second(20))),
                    (wanted, client.http_keepalive(http, keep)),
                ]);
            }
        }
    }
    for (wanted, load) in loads {
        load.wait_until(LIMIT, |stats| {
            stats.answered >= 20 && stats.fresh.len() >= 5
        })?;
        let stats = load.finish();
        assert!(stats.is_clean(), "{:?}", stats.samples);
        assert_eq!(stats.answered, stats.requests);
        assert_eq!(*stats.per_color.get(wanted.color), stats.answered);
        assert!(
            stats
                .fresh
                .iter()
                .all(|it| (it.color, it.backend) == (wanted.color, wanted.backend))
        );
        assert!(
            stats
                .connections
                .iter()
                .all(|it| it.identity == Some(wanted))
        );
    }
    for host in [lab.client(), lab.client2(), lab.blue(), lab.green()] {
        assert_eq!(tcp_retrans_segs(host)?, 0, "host {}", host.name());
    }
    Ok(())
}

#[test]
fn clients_reach_the_vips_on_the_node() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let identity = Identity {
        color: Color::Green,
        backend: 9,
    };
    for vip in [lab.vip4(0), lab.vip4(2), lab.vip6(0), lab.vip6(2)] {
        let address = SocketAddr::new(vip, ECHO_PORT);
        let _server = EchoServer::start(lab.node(), identity, &[address])?;
        let options = LongLived {
            connections: 1,
            ..LongLived::default()
        };
        let load = Client::new(lab.client2()).long_lived(address, options);
        load.wait_until(LIMIT, |stats| stats.answered > 0)?;
        assert_eq!(load.finish().connections[0].identity, Some(identity));
    }
    Ok(())
}

#[test]
fn loads_notice_a_backend_that_stops_and_one_that_takes_over() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let lab = Lab::builder().build()?;
    let mut backends = Backends::start(&lab)?;
    let (client, address) = (Client::new(lab.client()), lab.blue_backends_v4()[0]);
    let (echo, http) = (
        SocketAddr::new(address, ECHO_PORT),
        SocketAddr::new(address, HTTP_PORT),
    );
    let long = client.long_lived(echo, LongLived::default());
    let datagrams = client.udp_long_lived(echo, UdpLongLived::default());
    let requests = client.http_new(http, HttpNew::per_second(50));
    for load in [&long, &datagrams, &requests] {
        load.wait_until(LIMIT, |stats| stats.fresh.len() >= 10)?;
    }
    backends.stop(Identity {
        color: Color::Blue,
        backend: 0,
    });
    long.wait_until(LIMIT, |stats| stats.broken == 10)?;
    datagrams.wait_until(LIMIT, |stats| stats.lost >= 10)?;
    requests.wait_until(LIMIT, |stats| stats.failed >= 10)?;
    assert!(
        long.finish()
            .connections
            .iter()
            .all(|it| it.broken.is_some())
    );
    assert_eq!(requests.finish().samples.len(), 10);
    let other = Identity {
        color: Color::Blue,
        backend: 1,
    };
    let _other = EchoServer::start(lab.blue(), other, &[echo])?;
    datagrams.wait_until(LIMIT, |stats| stats.broken == 10)?;
    let error = datagrams.finish().connections[0]
        .broken
        .clone()
        .context("not broken")?;
    assert!(
        error.ends_with("was answered by blue backend 1, earlier ones by blue backend 0"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_lab_with_narrow_links_has_path_mtu_discovery_and_fragments() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let at_the_node = |router: &mut Router| router.near_mtu = Some(NARROW);
    let beyond = |router: &mut Router| router.path_mtu = Some(NARROW);
    let places: [fn(&mut Router); 2] = [at_the_node, beyond];
    for place in places {
        let mut topology = Topology::routed();
        topology
            .routers_of(|role| role == Role::Client)
            .for_each(place);
        let lab = Lab::builder().topology(topology).build()?;
        let _backends = Backends::start(&lab)?;
        for family in Family::ALL {
            let target = SocketAddr::new(lab.backends(Color::Blue, family)[0], BULK_PORT);
            let found = transfer(lab.client(), target, (1_000_000, 1_000_000), LIMIT)?;
            let [client, backend] = [NARROW; 2];
            assert_eq!(found, PathMtus { client, backend });
            let mut flow = Datagrams::open(lab.client(), target, LIMIT)?;
            assert_eq!(flow.path_mtu()?, NARROW);
            assert_eq!(flow.exchange(8_000)?.color, Color::Blue);
        }
    }
    Ok(())
}
