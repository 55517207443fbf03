//! A flow of numbered datagrams.

use std::{
    io::{Error, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use switcher_common::service::Color;
use switcher_tests::{
    lab::{Family, Lab},
    node::LabService,
    traffic::Identity,
};

use crate::mixed::LIMIT;

/// Time between datagrams while an answer is awaited.
const PERIOD: Duration = Duration::from_millis(10);

/// A UDP flow of which both directions keep their hops. None of these is older than the flow.
pub(super) struct Flow {
    socket: UdpSocket,
    began: Instant,
    next: u64,
}

impl Flow {
    pub(super) fn open(lab: &Lab, family: Family) -> Result<Self> {
        let any = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = (lab.client())
            .run(|| UdpSocket::bind(SocketAddr::new(any, 0)))
            .context("binding UDP")?;
        socket
            .connect(LabService::datagram(2).target(lab, family))
            .context("connecting UDP")?;
        let mut flow = Self {
            socket,
            began: Instant::now(),
            next: 0,
        };
        // The second one finds it established, and so does the answer.
        for _ in 0..3 {
            flow.ask().context("before the change")?;
        }
        Ok(flow)
    }

    /// Time since before its first datagram.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Who answers a datagram that is sent now.
    pub(super) fn ask(&mut self) -> Result<Color> {
        let number = self.send()?;
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            if let Some((answered, by)) = self.answer(LIMIT)?
                && answered == number
            {
                return Ok(by);
            }
        }
        bail!("no answer to datagram {number} within {LIMIT:?}")
    }

    /// Sends datagrams until one of them is answered by `color`.
    pub(super) fn ask_until_by(&mut self, color: Color) -> Result<()> {
        let first = self.next;
        let began = Instant::now();
        loop {
            self.send()?;
            while let Some((number, by)) = self.answer(PERIOD)? {
                if number >= first && by == color {
                    return Ok(());
                }
            }
            ensure!(
                began.elapsed() < LIMIT,
                "no answer by {} within {LIMIT:?}",
                color.name()
            );
        }
    }

    /// Sends a datagram, and takes the answers that are there.
    pub(super) fn go_on(&mut self) -> Result<()> {
        self.send()?;
        while self.answer(PERIOD)?.is_some() {}
        Ok(())
    }

    fn send(&mut self) -> Result<u64> {
        let number = self.next;
        self.next += 1;
        match self.socket.send(&number.to_be_bytes()) {
            Err(error) if !is_of_earlier(&error) => Err(error).context("sending a datagram"),
            _ => Ok(number),
        }
    }

    /// The number of an answer that comes within `limit`, and who sends it.
    fn answer(&self, limit: Duration) -> Result<Option<(u64, Color)>> {
        let mut bytes = [0; 16];
        self.socket.set_read_timeout(Some(limit))?;
        match self.socket.recv(&mut bytes) {
            Ok(length) => ensure!(length == 16, "an answer of {length} bytes, not 16"),
            Err(error) if error.kind() == ErrorKind::WouldBlock || is_of_earlier(&error) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("waiting for an answer"),
        }
        let word = |at| u64::from_be_bytes(std::array::from_fn(|it| bytes[at + it]));
        Ok(Some((word(0), Identity::from_tag(word(8))?.color)))
    }
}

/// An error that ICMP has brought.
fn is_of_earlier(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}
