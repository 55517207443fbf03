//! The core's thread: the only owner of the switch state. Takes commands one after the other and
//! makes each true in the kernel, then on disk, then visible to readers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use switcher_common::{
    cut::{Action, CutOrder},
    service::{Color, PerColor, ServiceSwitch},
    stats::ColorStats,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    clock,
    collector::{Collector, Scanned},
    gate::ConfiguredGate,
    interfaces,
    view::View,
    writer::{Writer, Written},
};
use crate::{
    api::{
        Peer,
        types::{ApiError, ChangeReply, ErrorCode, FlipRequest},
    },
    config::{Config, ServiceConfig},
    datapath::{Attached, Counters, DataPath, DataPathError, Replaced, Scan},
    interfaces::Interfaces,
    switching::{
        AtDeadline, Conditions, Cuts, DrainEnded, FlipOrder, Observation, Refusal, Seen, Service,
        Switchboard,
    },
};

/// What the core is asked to do.
pub(super) enum Command {
    /// A flip.
    Flip {
        /// As the API got it.
        request: FlipRequest,
        /// Who asked.
        peer: Peer,
        /// When.
        arrived: Instant,
        /// Where the answer goes.
        reply: oneshot::Sender<ChangeReply>,
    },
    /// The collector has finished a scan.
    Scanned(Scanned),
    /// Interfaces of the node have changed.
    Interfaces(Interfaces),
    /// The writer has tried the disk.
    Written(Written),
    /// End the thread; the data path stays.
    Stop,
}

/// The agent's state and the means to make it true.
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) path: DataPath,
    pub(super) board: Switchboard,
    /// The node's, as the program was told.
    pub(super) interfaces: Arc<Interfaces>,
    pub(super) ids: BTreeMap<String, u16>,
    pub(super) counters: Counters,
    pub(super) writer: Writer,
    pub(super) collector: Collector,
    pub(super) view: watch::Sender<Arc<View>>,
    /// Answers that wait for the disk, in the order of their states' numbers.
    pub(super) unanswered: VecDeque<Unanswered>,
    /// Number of the newest state that the disk has answered for.
    pub(super) written: u64,
    /// The disk has refused the newest state; it is tried again.
    pub(super) is_unsaved: bool,
}

/// An answer that is given when the state that it tells of is on disk.
pub(super) struct Unanswered {
    number: u64,
    answer: ChangeReply,
    reply: oneshot::Sender<ChangeReply>,
}

/// The switch state as the kernel's map holds it, by service id.
pub(super) fn encode(board: &Switchboard, ids: &BTreeMap<String, u16>) -> Vec<ServiceSwitch> {
    let highest = ids.values().copied().max().unwrap_or(0);
    let mut states = vec![ServiceSwitch::default(); usize::from(highest) + 1];
    states[0].generation = board.generation;
    for (name, service) in &board.services {
        if let Some(&id) = ids.get(name) {
            states[usize::from(id)] = ServiceSwitch {
                generation: service.generation,
                active: service.active as u8,
                base: service.base as u8,
                reserved: [0; 6],
            };
        }
    }
    states
}

/// Idle timeouts of a service's UDP flows in milliseconds, by color. A draining color's flows count
/// as finished after a shorter silence (G10).
pub(super) fn udp_idle_ms(config: &ServiceConfig, state: &Service) -> [u64; 2] {
    let draining = state.running_drain().map(|drain| drain.color);
    Color::ALL.map(|color| {
        let span = if draining == Some(color) {
            config.drain_udp_idle.min(config.idle.udp)
        } else {
            config.idle.udp
        };
        span.as_millis()
    })
}

/// A scan in the state machine's terms.
pub(super) struct Observed<'a> {
    pub(super) scan: &'a Scan,
    pub(super) began_boot_ms: u64,
    pub(super) ids: &'a BTreeMap<String, u16>,
    pub(super) counters: &'a Counters,
}

impl Observation for Observed<'_> {
    fn began_boot_ms(&self) -> u64 {
        self.began_boot_ms
    }

    fn seen(&self, service: &str, color: Color) -> Option<Seen> {
        let id = *self.ids.get(service)?;
        let cut = *self.scan.cut(id).get(color);
        Some(Seen {
            in_flight: *self.scan.in_flight(id).get(color),
            cut_by_packets: cut_by_packets(self.counters, id, color),
            cut_by_scan: Cuts {
                answered: 0,
                silent: cut.tcp,
                moved: cut.udp,
            },
        })
    }
}

/// Flows of a color that packets have cut. Counters that cannot be read only make a receipt poorer.
fn cut_by_packets(counters: &Counters, service: u16, color: Color) -> Cuts {
    let traffic = counters.traffic(service, color).unwrap_or_else(|error| {
        tracing::warn!(%error, "cut flows are not counted");
        ColorStats::default()
    });
    Cuts {
        answered: traffic.reset_flows,
        silent: 0,
        moved: traffic.moved_flows,
    }
}

/// The orders to cut flows that the drains of `board` want, by service id and color.
pub(super) fn cut_orders(
    board: &Switchboard,
    ids: &BTreeMap<String, u16>,
) -> BTreeMap<(u16, Color), CutOrder> {
    let order = |(name, service): (&String, &Service)| {
        let drain = service.running_drain()?;
        let action = match drain.at_deadline {
            AtDeadline::Keep => return None,
            AtDeadline::Reset => Action::Reset,
            AtDeadline::Move => Action::Move,
        };
        let order = CutOrder::new(action, clock::tick_of(drain.deadline));
        Some(((*ids.get(name)?, drain.color), order))
    };
    board.services.iter().filter_map(order).collect()
}

impl Core {
    /// Serves commands until [`Command::Stop`], or until nobody can send any more.
    pub(super) fn run(mut self, commands: &mut mpsc::Receiver<Command>) {
        while let Some(command) = commands.blocking_recv() {
            match command {
                Command::Flip {
                    request,
                    peer,
                    arrived,
                    reply,
                } => {
                    if cfg!(mutant = "no-barrier") {
                        self.answer_early(&request, reply);
                        self.flip(&request, peer, arrived, oneshot::channel().0);
                        continue;
                    }
                    self.flip(&request, peer, arrived, reply);
                }
                Command::Scanned(scanned) => self.take_scan(scanned),
                Command::Interfaces(interfaces) => self.take_interfaces(interfaces),
                Command::Written(written) => self.take_written(written),
                Command::Stop => break,
            }
        }
        self.writer.finish();
    }

    /// The mutant of G3: the answer comes before the store, as if nobody waited for the programs
    /// that still run with the old state.
    fn answer_early(&self, request: &FlipRequest, reply: oneshot::Sender<ChangeReply>) {
        let _ = reply.send(self.reply(request, true));
        std::thread::sleep(Duration::from_millis(30));
    }

    /// Flips, or says why not. An answer that tells of a change, or of one that the disk may not
    /// have yet, waits for the disk.
    fn flip(
        &mut self,
        request: &FlipRequest,
        peer: Peer,
        arrived: Instant,
        reply: oneshot::Sender<ChangeReply>,
    ) {
        let answer = match self.try_flip(request, peer, arrived) {
            Ok(answer) => answer,
            Err(error) => ChangeReply {
                error: Some(error),
                ..self.reply(request, false)
            },
        };
        let is_settled = self.unanswered.is_empty() && !self.is_unsaved;
        let tells_no_change = !answer.changed && (is_settled || answer.error.is_some());
        if request.dry_run || tells_no_change {
            // A client that has left gets no answer.
            let _ = reply.send(answer);
            return;
        }
        let number = self.writer.write(&self.board);
        self.unanswered.push_back(Unanswered {
            number,
            answer,
            reply,
        });
    }

    fn try_flip(
        &mut self,
        request: &FlipRequest,
        peer: Peer,
        arrived: Instant,
    ) -> Result<ChangeReply, ApiError> {
        let gate = ConfiguredGate::new(&self.config);
        let next = self
            .board
            .flipped(&self.order(request), &gate, clock::now())
            .map_err(|refusal| refused(&refusal))?;
        let would_change = next != self.board;
        if request.dry_run || !would_change {
            return Ok(ChangeReply {
                would_change: request.dry_run.then_some(would_change),
                ..self.reply(request, false)
            });
        }
        let replaced = self.switch_to(next)?;
        let reply = ChangeReply {
            visible_us: Some(micros(replaced.stored_at - arrived)),
            barrier_us: Some(micros(replaced.barrier_at - arrived)),
            ..self.reply(request, true)
        };
        tracing::info!(
            services = request.services.join(","),
            generation = self.board.generation,
            visible_us = reply.visible_us,
            barrier_us = reply.barrier_us,
            by = %peer,
            reason = request.reason.as_deref().unwrap_or(""),
            "flipped"
        );
        Ok(reply)
    }

    /// The disk's word: readers see the state now, and who waited for it hears how it went.
    fn take_written(&mut self, written: Written) {
        if let Err(error) = &written.result {
            tracing::error!(%error, "the switch state is in the kernel, but not on disk");
        }
        self.is_unsaved = written.result.is_err();
        self.written = written.number;
        self.publish(None, Some(written.board));
        while let Some(waiting) = self
            .unanswered
            .pop_front_if(|waiting| waiting.number <= written.number)
        {
            let error = written.result.as_ref().err().map(not_durable);
            let _ = waiting.reply.send(ChangeReply {
                error,
                ..waiting.answer
            });
        }
    }

    fn order(&self, request: &FlipRequest) -> FlipOrder {
        let timeout = |name: &String| {
            let service = self.config.services.iter().find(|s| s.name == *name)?;
            let configured = service.drain_timeout.as_millis();
            Some((name.clone(), request.drain_timeout_ms.unwrap_or(configured)))
        };
        let at_deadline = |name: &String| {
            let service = self.config.services.iter().find(|s| s.name == *name)?;
            let policy = request.at_deadline.unwrap_or(service.at_deadline);
            Some((name.clone(), policy))
        };
        let cut_before = |name: &String| {
            let id = *self.ids.get(name)?;
            let cuts = PerColor::from_fn(|color| cut_by_packets(&self.counters, id, color));
            Some((name.clone(), cuts))
        };
        FlipOrder {
            services: request.services.clone(),
            to: request.to,
            conditions: Conditions {
                expect_active: request.expect_active,
                if_generation: request.if_generation,
            },
            drain_timeout_ms: request.services.iter().filter_map(timeout).collect(),
            at_deadline: request.services.iter().filter_map(at_deadline).collect(),
            cut_before: request.services.iter().filter_map(cut_before).collect(),
        }
    }

    fn reply(&self, request: &FlipRequest, changed: bool) -> ChangeReply {
        let active = |name: &String| Some((name.clone(), self.board.services.get(name)?.active));
        ChangeReply {
            changed,
            generation: self.board.generation,
            active: request.services.iter().filter_map(active).collect(),
            would_change: None,
            visible_us: None,
            barrier_us: None,
            error: None,
        }
    }

    /// Makes `next` true in the kernel by one store and keeps it. Returns after the barrier.
    ///
    /// Orders to cut a color's flows are taken back before it can become active again, and given
    /// when no fresh flow comes to it any more.
    fn switch_to(&mut self, mut next: Switchboard) -> Result<Replaced, ApiError> {
        let mut lasting = cut_orders(&self.board, &self.ids);
        let wanted = cut_orders(&next, &self.ids);
        lasting.retain(|color, _| wanted.contains_key(color));
        let switched = self
            .path
            .set_cuts(&lasting)
            .and_then(|()| self.path.switch(&encode(&next, &self.ids)));
        if switched.is_ok() {
            next.barrier_passed(clock::now());
            self.board = next;
        }
        // Those of the state that holds now, whichever it is.
        if let Err(error) = self.path.set_cuts(&cut_orders(&self.board, &self.ids)) {
            tracing::error!(%error, "what is left at the drains' deadlines would not be cut");
        }
        let replaced = switched.map_err(|error| data_path(&error))?;
        self.set_idle_timeouts();
        self.collector.pace(self.board.is_draining());
        Ok(replaced)
    }

    /// Sets the idle timeouts of all services, as their drains want them.
    fn set_idle_timeouts(&mut self) {
        for service in &self.config.services {
            let (Some(&id), Some(state)) = (
                self.ids.get(&service.name),
                self.board.services.get(&service.name),
            ) else {
                continue;
            };
            let udp_ms = udp_idle_ms(service, state);
            if let Err(error) = self.path.set_idle(id, service, udp_ms) {
                tracing::error!(%error, service = service.name, "idle timeouts are not set");
            }
        }
    }

    fn take_scan(&mut self, scanned: Scanned) {
        self.reattach();
        tracing::debug!(
            took = ?(scanned.scan.ended_at - scanned.scan.began_at),
            expired_flows = scanned.scan.expired_flows,
            "scanned"
        );
        let seen = Observed {
            scan: &scanned.scan,
            began_boot_ms: scanned.began_boot_ms,
            ids: &self.ids,
            counters: &self.counters,
        };
        let mut next = self.board.clone();
        let ended = next.observe(&seen, clock::now());
        if ended.is_empty() {
            self.board = next;
        } else {
            self.end_drains(next, &ended);
        }
        if self.is_unsaved {
            self.writer.write(&self.board);
        }
        self.publish(Some(scanned.scan), None);
        for waiting in scanned.waiting {
            let _ = waiting.send(());
        }
    }

    fn end_drains(&mut self, next: Switchboard, ended: &[DrainEnded]) {
        if let Err(error) = self.switch_to(next) {
            tracing::error!(%error, "drains have ended, but the base color is not set; the next scan tries again");
            return;
        }
        self.writer.write(&self.board);
        for drain in ended {
            tracing::info!(
                service = drain.service,
                color = drain.color.name(),
                flows_left = drain.end.flows_left,
                flows_reset = drain.end.cuts.reset(),
                flows_moved = drain.end.cuts.moved,
                "drain ended"
            );
        }
    }

    fn take_interfaces(&mut self, now: Interfaces) {
        // First what the program must know, then the program.
        interfaces::tell(&mut self.path, &self.config, &self.interfaces, &now);
        self.interfaces = Arc::new(now);
        self.reattach();
        self.publish(None, None);
    }

    fn reattach(&mut self) {
        for (interface, result) in self.path.reattach(&self.config.agent) {
            match result {
                Ok(Attached::Now(mode)) => {
                    tracing::warn!(
                        interface,
                        mode = mode.name(),
                        "interface came back, attached again"
                    );
                }
                Ok(Attached::Already) => {}
                Err(error) => {
                    tracing::error!(interface, %error, "interface came back, not attached");
                }
            }
        }
    }

    /// Shows readers the newest state that the disk has answered for: `answered` is it, until they see a
    /// newer one.
    fn publish(&self, scan: Option<Scan>, answered: Option<Switchboard>) {
        self.view.send_modify(|view| {
            let scan = scan.map(Arc::new).or_else(|| view.scan.clone());
            let is_settled = self.written == self.writer.newest();
            let board = if is_settled {
                self.board.clone()
            } else {
                answered.unwrap_or_else(|| view.board.clone())
            };
            *view = Arc::new(View {
                board,
                is_settled,
                scan,
                interfaces: self.interfaces.clone(),
                at: clock::now(),
                ..View::clone(view)
            });
        });
    }
}

/// The change stands, so none of the codes that promise otherwise.
fn not_durable(error: &ApiError) -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        format!("the change is in the kernel, but would not survive a reboot: {error}"),
        error.next_step.clone(),
    )
}

fn refused(refusal: &Refusal) -> ApiError {
    let (code, next_step) = match refusal {
        Refusal::UnknownService { .. } => {
            (ErrorCode::NotFound, "`switcher status` lists the services")
        }
        Refusal::ActiveDiffers { .. } | Refusal::GenerationDiffers { .. } => (
            ErrorCode::Conflict,
            "somebody else has changed it: look at `switcher status`, then decide again",
        ),
        Refusal::NotEnoughBackends { .. } => (
            ErrorCode::Refused,
            "bring the backends of that color up, or configure them",
        ),
    };
    ApiError::new(code, refusal.to_string(), next_step)
}

/// A failure of the kernel as the API tells it.
pub(super) fn data_path(error: &DataPathError) -> ApiError {
    let (code, next_step) = match error {
        DataPathError::PinDir { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            (
                ErrorCode::Permission,
                "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
            )
        }
        DataPathError::Locked { .. } => (ErrorCode::Conflict, "stop the other agent first"),
        DataPathError::Limits { .. } | DataPathError::Full { .. } => {
            (ErrorCode::Usage, "mend [agent.limits]")
        }
        DataPathError::ForeignProgram { .. } | DataPathError::NoInterface { .. } => (
            ErrorCode::Refused,
            "see what `switcher agent --check` finds",
        ),
        DataPathError::NotLoaded { .. } => (ErrorCode::NotFound, "start the agent first"),
        _ => (
            ErrorCode::DataPath,
            "see what `switcher agent --check` finds, and the agent's log",
        ),
    };
    ApiError::new(code, error.to_string(), next_step)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
