//! Numbered UDP datagrams: short flows from new ports, and flows that go on.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use switcher_common::service::Protocol;
use tokio::net::UdpSocket;

use super::client::{LoadTask, ticks, within};
use super::dial;
use super::identity::{ANSWER, Identity, read_answer};

/// Options of [`Client::udp_flows`](super::Client::udp_flows).
#[derive(Clone, Copy, Debug)]
pub struct UdpFlows {
    /// Flows begun per second; at most 1 000 in all per client host.
    pub per_second: NonZeroU32,
    /// Datagrams of one flow.
    pub datagrams: u64,
    /// Time between two datagrams of one flow.
    pub interval: Duration,
    /// Time after which a datagram without an answer is lost.
    pub timeout: Duration,
}

impl UdpFlows {
    /// A bounded rate with defaults: 4 datagrams, every 5 ms, lost after 1 s; 0 is taken as 1.
    #[must_use]
    pub fn per_second(rate: u32) -> Self {
        Self {
            per_second: NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN),
            datagrams: 4,
            interval: Duration::from_millis(5),
            timeout: Duration::from_secs(1),
        }
    }
}

/// Options of [`Client::udp_long_lived`](super::Client::udp_long_lived).
#[derive(Clone, Copy, Debug)]
pub struct UdpLongLived {
    /// How many flows.
    pub flows: usize,
    /// Time between two datagrams of one flow.
    pub interval: Duration,
    /// Time after which a datagram without an answer is lost.
    pub timeout: Duration,
}

impl Default for UdpLongLived {
    fn default() -> Self {
        Self {
            flows: 10,
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(1),
        }
    }
}

pub(super) async fn run_flows(task: LoadTask, options: UdpFlows) {
    let flow = move |task: LoadTask| async move {
        let pace = Pace {
            interval: options.interval,
            timeout: options.timeout,
            index: None,
        };
        if let Err(error) = converse(&task, options.datagrams, pace).await {
            task.recorder.broken(&task.named("UDP flow", error));
        }
    };
    task.repeat(options.per_second, flow).await;
}

pub(super) async fn run_long_lived(task: LoadTask, options: UdpLongLived) {
    let flow = move |task: LoadTask, index| async move {
        let UdpLongLived {
            interval, timeout, ..
        } = options;
        let pace = Pace {
            interval,
            timeout,
            index: Some(index),
        };
        if let Err(error) = converse(&task, u64::MAX, pace).await {
            task.broken(index, "long-lived UDP flow", error);
        }
    };
    task.each(options.flows, flow).await;
}

/// How one flow goes; `index` is its entry among the long-lived ones.
#[derive(Clone, Copy)]
struct Pace {
    interval: Duration,
    timeout: Duration,
    index: Option<usize>,
}

async fn converse(task: &LoadTask, datagrams: u64, pace: Pace) -> Result<()> {
    let socket = dial::udp_socket(&task.ports, task.target).await?;
    let mut ticks = ticks(pace.interval);
    let mut began = None;
    let mut first = None;
    for number in 0..datagrams {
        // A short flow that has begun is finished; only long ones end early.
        if pace.index.is_none() {
            ticks.tick().await;
        } else if !task.tick(&mut ticks).await {
            break;
        }
        let began = *began.get_or_insert_with(Instant::now);
        let Some(by) = ask(task, &socket, number, pace.timeout).await else {
            continue;
        };
        match first.replace(by) {
            None => task.fresh(began, by, Protocol::Udp),
            Some(before) => ensure!(
                before == by,
                "datagram {number} was answered by {by}, earlier ones by {before}"
            ),
        }
        match pace.index {
            Some(index) => task.answered(index, by),
            None => task.recorder.answered(by),
        }
    }
    Ok(())
}

/// The backend that answers datagram `number`; `None`, and counted, when it is lost.
async fn ask(
    task: &LoadTask,
    socket: &UdpSocket,
    number: u64,
    limit: Duration,
) -> Option<Identity> {
    task.recorder.sent();
    let answer = within(limit, exchange(socket, number)).await;
    answer
        .map_err(|error| {
            let error = error.context(format!("datagram {number}"));
            task.recorder.lost(&task.named("UDP flow", error));
        })
        .ok()
}

/// Sends datagram `number` and waits for its answer; answers to earlier ones come too late.
async fn exchange(socket: &UdpSocket, number: u64) -> Result<Identity> {
    socket
        .send(&number.to_be_bytes())
        .await
        .context("sending a datagram")?;
    loop {
        let mut bytes = [0; ANSWER];
        let length = socket
            .recv(&mut bytes)
            .await
            .context("receiving an answer")?;
        ensure!(length == ANSWER, "an answer of {length} bytes");
        let (answered, by) = read_answer(bytes)?;
        ensure!(
            answered <= number,
            "the answer to datagram {number} says {answered}"
        );
        if answered == number {
            return Ok(by);
        }
    }
}
