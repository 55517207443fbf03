//! All backends of a lab: an echo, a web and a bulk server on every backend address.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use switcher_common::service::Color;

use super::{BulkServer, EchoServer, HttpServer, Identity};
use crate::lab::{Family, Lab};

/// Port of the echo servers, TCP and UDP.
pub const ECHO_PORT: u16 = 7000;
/// Port of the web servers.
pub const HTTP_PORT: u16 = 8080;
/// Port of the bulk servers, TCP and UDP.
pub const BULK_PORT: u16 = 9000;

/// What serves one backend's addresses.
type Servers = (EchoServer, HttpServer, BulkServer);

/// The servers of a lab. Backend `n` of a color has the `n`th address of each family.
/// All have ended when this is dropped.
pub struct Backends(BTreeMap<Identity, Servers>);

impl Backends {
    /// Starts the servers of both colors; ready when this returns.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut servers = BTreeMap::new();
        for color in Color::ALL {
            for index in 0..lab.backends(color, Family::V4).len() {
                let identity = Identity {
                    color,
                    backend: u32::try_from(index)?,
                };
                servers.insert(identity, start_one(lab, identity)?);
            }
        }
        Ok(Self(servers))
    }

    /// Stops one backend: its connections have ended when this returns, and its addresses refuse
    /// new ones.
    pub fn stop(&mut self, identity: Identity) {
        if let Some(servers) = self.0.remove(&identity) {
            end(servers);
        }
    }

    /// Stops all backends of `color`, as [`Backends::stop`] does.
    pub fn stop_color(&mut self, color: Color) {
        let stopped = self.0.extract_if(.., |identity, _| identity.color == color);
        stopped.for_each(|(_, servers)| end(servers));
    }

    /// Starts one backend again after [`Backends::stop`].
    pub fn restart(&mut self, lab: &Lab, identity: Identity) -> Result<()> {
        self.stop(identity);
        self.0.insert(identity, start_one(lab, identity)?);
        Ok(())
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        std::mem::take(&mut self.0).into_values().for_each(end);
    }
}

fn end((echo, http, bulk): Servers) {
    echo.end();
    http.end();
    bulk.end();
}

fn start_one(lab: &Lab, identity: Identity) -> Result<Servers> {
    let find = |family| {
        let addresses = lab.backends(identity.color, family);
        let found = addresses.get(identity.backend as usize).copied();
        found.with_context(|| format!("this lab has no {identity}"))
    };
    let (v4, v6) = (find(Family::V4)?, find(Family::V6)?);
    let at = |port| [v4, v6].map(|address| SocketAddr::new(address, port));
    let host = lab.host_of(v4)?;
    Ok((
        EchoServer::start(host, identity, &at(ECHO_PORT))?,
        HttpServer::start(host, identity, &at(HTTP_PORT))?,
        BulkServer::start(host, identity, &at(BULK_PORT))?,
    ))
}
