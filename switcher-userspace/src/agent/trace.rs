//! Tracing: readers come and go, the program tells of what one of them wants to see, and each gets
//! what it asked for. While nobody reads, the program tells nothing.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use switcher_common::{
    address::WideAddress,
    flow::{ACK, FIN, FLAG_PREVIEW, FLAG_UNPINNED, FlowState, RST, SYN, Side},
    reason::Verdict,
    service::Protocol,
    trace::{Known, TraceEvent, TraceFilter},
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};

use super::{core::data_path, view::View};
use crate::{
    api::{
        instant,
        trace::{Decision, DecisionFlow, TraceFeed},
        types::{ApiError, ErrorCode},
    },
    datapath::{DataPathError, LiveTracer, Tracer, monotonic_ns},
};

/// Decisions that wait for a reader; further ones are lost to it.
const QUEUE: usize = 1_024;
/// Events that are taken out of the ring before others get their turn.
const BATCH: usize = 256;
/// How often the program is told to go on: several times before it stops by itself.
const RENEWAL: Duration = Duration::from_secs(3);

/// Somebody who wants to read.
pub(super) struct Subscription {
    pub(super) filter: TraceFilter,
    pub(super) reply: oneshot::Sender<Result<TraceFeed, ApiError>>,
}

struct Reader {
    filter: TraceFilter,
    decisions: mpsc::Sender<Decision>,
    lost: Arc<AtomicU64>,
}

/// Serves readers until nobody can subscribe any more, then turns tracing off.
pub(super) async fn run(
    tracer: Tracer,
    mut subscriptions: mpsc::Receiver<Subscription>,
    view: watch::Receiver<Arc<View>>,
) -> io::Result<()> {
    let mut service = Service {
        tracer: tracer.live()?,
        readers: Vec::new(),
        left: Arc::new(Notify::new()),
        view,
    };
    let mut renewals = interval(RENEWAL);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_read = !service.readers.is_empty();
        tokio::select! {
            subscription = subscriptions.recv() => match subscription {
                Some(subscription) => service.subscribe(subscription),
                None => break,
            },
            () = service.left.notified() => service.tidy(),
            _ = renewals.tick(), if is_read => service.tidy(),
            delivered = deliver(&mut service.tracer, &service.readers, &service.view), if is_read => {
                delivered?;
                // A flood of events must not keep the others waiting.
                tokio::task::yield_now().await;
            }
        }
    }
    service.readers.clear();
    service.tidy();
    Ok(())
}

struct Service {
    tracer: LiveTracer,
    readers: Vec<Reader>,
    /// Hears of each reader that leaves.
    left: Arc<Notify>,
    view: watch::Receiver<Arc<View>>,
}

impl Service {
    fn subscribe(&mut self, subscription: Subscription) {
        // A client that has left gets no answer, and its feed is dropped with it.
        let _ = subscription.reply.send(self.feed(subscription.filter));
    }

    fn feed(&mut self, filter: TraceFilter) -> Result<TraceFeed, ApiError> {
        self.tidy();
        if self.readers.len() >= Tracer::capacity() {
            return Err(ApiError::new(
                ErrorCode::Refused,
                format!(
                    "cannot trace: {} readers trace already, the most that the program serves",
                    self.readers.len()
                ),
                "try again when one has left",
            ));
        }
        if self.readers.is_empty() {
            // What was told to readers that have left since.
            let tracer = self.tracer.get_mut();
            tracer.take(usize::MAX, |_| {});
            tracer.newly_lost().map_err(|error| data_path(&error))?;
        }
        let (sender, decisions) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        self.readers.push(Reader {
            filter,
            decisions: sender,
            lost: lost.clone(),
        });
        if let Err(error) = self.apply() {
            self.readers.pop();
            return Err(data_path(&error));
        }
        Ok(TraceFeed::new(decisions, lost, self.left.clone()))
    }

    /// Forgets the readers that have left, and tells the program what the others want to see.
    fn tidy(&mut self) {
        self.readers.retain(|reader| !reader.decisions.is_closed());
        if let Err(error) = self.apply() {
            tracing::error!(%error, "tracing is not renewed, or not turned off");
        }
    }

    fn apply(&mut self) -> Result<(), DataPathError> {
        let filters: Vec<TraceFilter> = self.readers.iter().map(|reader| reader.filter).collect();
        self.tracer.get_mut().trace(&filters)
    }
}

/// Waits for events, and hands a batch of them to the readers. Dropping the future loses nothing.
async fn deliver(
    tracer: &mut LiveTracer,
    readers: &[Reader],
    view: &watch::Receiver<Arc<View>>,
) -> io::Result<()> {
    let mut words = None;
    let taken = tracer.take(BATCH, |event| {
        let words = words.get_or_insert_with(|| Words::now(view));
        for reader in readers.iter().filter(|it| it.filter.matches(event)) {
            match reader.decisions.try_reserve() {
                Ok(place) => place.send(words.decision(event)),
                Err(mpsc::error::TrySendError::Full(())) => {
                    reader.lost.fetch_add(1, Ordering::Relaxed);
                }
                // It has left; the next round forgets it.
                Err(mpsc::error::TrySendError::Closed(())) => {}
            }
        }
    });
    taken.await?;
    match tracer.get_mut().newly_lost() {
        Ok(0) => {}
        Ok(lost) => {
            for reader in readers {
                reader.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        Err(error) => tracing::error!(%error, "traced packets may be lost unnoticed"),
    }
    Ok(())
}

/// What events are put into words with.
struct Words {
    view: Arc<View>,
    /// The same moment on both clocks.
    now: SystemTime,
    now_ns: u64,
}

impl Words {
    fn now(view: &watch::Receiver<Arc<View>>) -> Self {
        Self {
            view: view.borrow().clone(),
            now: SystemTime::now(),
            now_ns: monotonic_ns(),
        }
    }

    fn decision(&self, event: &TraceEvent) -> Decision {
        let ago = Duration::from_nanos(self.now_ns.saturating_sub(event.time_ns));
        let reason = event.reason();
        let names = event.notes().map(|note| note.name().to_owned());
        let is_tcp = event.protocol == Protocol::Tcp as u8;
        let [from, to] = [
            endpoint(event, event.src, event.src_port_be),
            endpoint(event, event.dst, event.dst_port_be),
        ];
        let (sent_from, sent_to) = sent(event, &from, &to);
        Decision {
            seen_at: instant::format_micros(self.now.checked_sub(ago).unwrap_or(self.now)),
            interface: self.view.interface_name(event.ifindex).map(str::to_owned),
            stage: event.stage().name().to_owned(),
            verdict: reason.verdict().name().to_owned(),
            reason: reason.name().to_owned(),
            notes: names.collect(),
            protocol: protocol(event.protocol),
            tcp_flags: is_tcp.then(|| tcp_flags(event.tcp_flags)),
            from,
            to,
            sent_from,
            sent_to,
            bytes: event.ip_len,
            service: self.view.service_name(event.service).map(str::to_owned),
            color: event.color(),
            flow: flow(event),
        }
    }
}

fn has_ports(event: &TraceEvent) -> bool {
    Protocol::from_number(event.protocol).is_some() && (event.src_port_be | event.dst_port_be) != 0
}

fn endpoint(event: &TraceEvent, address: WideAddress, port_be: u16) -> String {
    let ip: IpAddr = address.to_ip();
    if has_ports(event) {
        SocketAddr::new(ip, u16::from_be(port_be)).to_string()
    } else {
        ip.to_string()
    }
}

fn is_forward(event: &TraceEvent) -> bool {
    event.side == Side::Forward as u8
}

/// Source and destination of a packet that was translated and sent on.
fn sent(event: &TraceEvent, from: &str, to: &str) -> (Option<String>, Option<String>) {
    let is_answer = event.stage() != switcher_common::trace::Stage::Forward;
    if event.known() < Known::Flow || is_answer || event.reason().verdict() == Verdict::Drop {
        return (None, None);
    }
    let rewritten = endpoint(event, event.rewrite_addr, event.rewrite_port_be);
    if is_forward(event) {
        (Some(from.to_owned()), Some(rewritten))
    } else {
        (Some(rewritten), Some(to.to_owned()))
    }
}

fn flow(event: &TraceEvent) -> Option<DecisionFlow> {
    let known = event.known();
    if known < Known::Flow {
        return None;
    }
    let (side, backend) = if is_forward(event) {
        let backend = endpoint(event, event.rewrite_addr, event.rewrite_port_be);
        (Side::Forward, backend)
    } else {
        let backend = endpoint(event, event.src, event.src_port_be);
        (Side::Reverse, backend)
    };
    Some(DecisionFlow {
        is_new: known == Known::Fresh,
        direction: side.name().to_owned(),
        state: FlowState::from_byte(event.state).name().to_owned(),
        backend,
        preview: event.flags & FLAG_PREVIEW != 0,
        unpinned: event.flags & FLAG_UNPINNED != 0,
    })
}

/// IANA's numbers of the protocols that have a name here.
fn protocol(number: u8) -> String {
    match (Protocol::from_number(number), number) {
        (Some(protocol), _) => protocol.name().to_owned(),
        (None, 1) => "icmp".to_owned(),
        (None, 58) => "icmpv6".to_owned(),
        (None, other) => other.to_string(),
    }
}

fn tcp_flags(flags: u8) -> String {
    const PSH: u8 = 0x08;
    const URG: u8 = 0x20;
    let all = [
        (SYN, "SYN"),
        (FIN, "FIN"),
        (RST, "RST"),
        (PSH, "PSH"),
        (URG, "URG"),
        (ACK, "ACK"),
    ];
    let set = all.iter().filter(|(flag, _)| flags & flag != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}
