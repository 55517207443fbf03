//! An interface that goes away and comes back under a running agent.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt as _;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use serde_json::Value;
use switcher_tests::{
    lab::{FAR_INTERFACE, Family, Host, Lab, Link, add_link},
    node::LabService,
    skip_unless_lab,
    traffic::{Client, HttpNew, LongLived},
};

use crate::mixed::LIMIT;

/// The link of `client2`.
fn link(lab: &Lab) -> Result<Link> {
    let mut links = lab.topology().links.iter();
    let found = links.find(|link| link.host == "client2");
    Ok(found.context("the lab has a second client")?.clone())
}

fn mode(status: &Value, interface: &str) -> Value {
    let mut interfaces = status["interfaces"].as_array().into_iter().flatten();
    let found = interfaces.find(|it| it["name"] == interface);
    found.map_or(Value::Null, |it| it["mode"].clone())
}

fn netlink() -> Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("opening netlink")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index_of(handle: &Handle, name: &'static str) -> Result<u32> {
    let request = handle.link().get().match_name(name.to_owned());
    let found = request.execute().try_next().await?;
    Ok(found.context("no such interface")?.header.index)
}

fn delete(host: &Host, name: &'static str) -> Result<()> {
    host.block_on(async move {
        let handle = netlink()?;
        let index = index_of(&handle, name).await?;
        let deleted = handle.link().del(index).execute().await;
        deleted.with_context(|| format!("deleting interface {name}"))
    })?;
    host.wait_for_no_interface(name, LIMIT)
}

/// Sets an interface up with its addresses, and a default route where there is a gateway.
fn set_up(
    host: &Host,
    name: &'static str,
    addresses: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
) -> Result<()> {
    host.block_on(async move {
        let handle = netlink()?;
        let index = index_of(&handle, name).await?;
        for address in addresses {
            let prefix = if address.is_ipv4() { 24 } else { 64 };
            handle
                .address()
                .add(index, address, prefix)
                .execute()
                .await?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await?;
        for gateway in gateways {
            let route = match gateway {
                IpAddr::V4(gateway) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .gateway(gateway)
                    .build(),
                IpAddr::V6(gateway) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                    .gateway(gateway)
                    .build(),
            };
            handle.route().add(route).execute().await?;
        }
        anyhow::Ok(())
    })
    .with_context(|| format!("setting up {name} on host {}", host.name()))
}

#[test]
fn an_interface_that_comes_back_is_attached_again_and_carries_traffic() -> Result<()> {
    skip_unless_lab!(Ok(()));
    let (lab, _backends) = crate::lab()?;
    let node = crate::start(&lab)?;
    let elsewhere = Client::new(lab.client()).long_lived(
        LabService::stream(1).target(&lab, Family::V4),
        LongLived::default(),
    );
    elsewhere.wait_until(LIMIT, |stats| stats.fresh.len() == 10)?;
    let link = link(&lab)?;
    let name = link.node_interface;
    ensure!(mode(&node.status()?, name) == "native", "attached at first");
    let before = lab.node().interface(name)?.index;
    delete(lab.node(), name)?;
    node.wait_until("it is gone", |status| mode(status, name) == "not attached")?;
    add_link(
        lab.node(),
        name,
        lab.client2(),
        FAR_INTERFACE,
        lab.topology().mtu,
    )?;
    ensure!(
        lab.node().interface(name)?.index != before,
        "another interface of that name"
    );
    let near = Family::ALL.map(|family| link.node_address(family)).to_vec();
    let far = Family::ALL
        .map(|family| link.far_addresses(family))
        .concat();
    set_up(lab.node(), name, near.clone(), Vec::new())?;
    set_up(lab.client2(), FAR_INTERFACE, far, near)?;
    node.wait_until("it is attached again", |status| {
        mode(status, name) == "native"
    })?;
    for family in Family::ALL {
        let target = LabService::web(0).target(&lab, family);
        let options = HttpNew {
            timeout: Duration::from_secs(5),
            ..HttpNew::per_second(50)
        };
        let load = Client::new(lab.client2()).http_new(target, options);
        load.wait_until(LIMIT, |stats| stats.answered >= 20)?;
    }
    ensure!(
        elsewhere.finish().is_clean(),
        "traffic of the other interfaces"
    );
    Ok(())
}
