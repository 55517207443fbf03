//! The core's thread: the only owner of the switch state. Takes commands one after the other and
//! makes each true in the kernel, then on disk, then visible to readers.

mod apply;
mod asking;
mod change;
mod deadlines;
mod drill;
mod encode;
mod errors;
mod failover;
mod health;
mod record;
mod removals;
mod unfit;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

pub(super) use self::{
    apply::{AskedApply, By, ready_services},
    asking::Asking,
    change::Asked,
    encode::{Observed, drain_orders, encode, orders, overlaid, tally_of, without_slots},
    errors::data_path,
    failover::situation,
    record::Recorded,
    removals::{Removal, Removals, leaving},
    unfit::empty_listener,
};
use self::{
    encode::udp_idle_ms,
    errors::{disk_stalls, not_durable},
    failover::RETRY_MS,
};
use super::{
    checks::{HealthNews, WantedProof},
    clock,
    collector::{Collector, Counted, Scanned},
    configured::Configured,
    history::History,
    interfaces, unsaved,
    view::View,
    writer::{Writer, Written},
};
use crate::{
    api::types::{ApiError, ChangeReply},
    config::Config,
    datapath::{Attached, Counters, DataPath, DataPathError, Orders, Replaced, Scan},
    interfaces::Interfaces,
    switching::{Cuts, DrainEnded, Switchboard},
};

/// How long readers and answers wait for the disk; less than a request does.
pub(super) const DISK_PATIENCE: Duration = Duration::from_millis(DISK_PATIENCE_MS);
const DISK_PATIENCE_MS: u64 = 5_000;

/// What the core is asked to do.
pub(super) enum Command {
    /// A change.
    Change(Box<Asked>),
    /// Another configuration.
    Apply(Box<AskedApply>),
    /// The collector has counted what an apply needs to know.
    Counted(Counted),
    /// The collector has finished a scan.
    Scanned(Scanned),
    /// Checks have found that backends' health has changed.
    Health(Vec<HealthNews>),
    /// Interfaces of the node have changed.
    Interfaces(Interfaces),
    /// The writer has tried the disk.
    Written(Written),
    /// Something ends by itself; the core tells itself so.
    Deadline,
    /// End the thread; the data path stays.
    Stop,
}

/// An apply that waits for a count of what flows refer to.
pub(super) struct Counting {
    asked: Box<AskedApply>,
    /// How many applies there were when the count was asked for: an older count does not know what
    /// flows refer to of what the newest one removed.
    after: u64,
}

/// The agent's state and the means to make it true.
pub(super) struct Core {
    pub(super) config: Arc<Config>,
    pub(super) path: DataPath,
    pub(super) board: Switchboard,
    /// The node's, as the program was told.
    pub(super) interfaces: Arc<Interfaces>,
    pub(super) ids: Arc<BTreeMap<String, u16>>,
    /// How many applies this agent has carried out.
    pub(super) applies: u64,
    pub(super) counters: Counters,
    pub(super) writer: Writer,
    pub(super) collector: Collector,
    /// When orders and tables are made what the board wants, if they are not. Milliseconds of `CLOCK_BOOTTIME`.
    pub(super) follow_due: Option<u64>,
    /// When the policy of automated failover is asked.
    pub(super) asking: Asking,
    /// The way to the checks, for backends to which a failover would go.
    pub(super) prover: mpsc::Sender<WantedProof>,
    /// Listeners that are configured no more, and still known.
    pub(super) removals: Removals,
    pub(super) view: watch::Sender<Arc<View>>,
    /// Answers that wait for the disk, in the order of their states' numbers.
    pub(super) unanswered: VecDeque<Unanswered>,
    /// Number of the newest state that the disk has answered for.
    pub(super) written: u64,
    /// Number of the newest state that readers know of: the disk has answered for it, or is too slow.
    pub(super) shown: u64,
    /// Since when the disk owes an answer, if it does. Milliseconds of `CLOCK_BOOTTIME`.
    pub(super) owed_since: u64,
    /// Generation of the newest state that is on disk.
    pub(super) saved: u64,
    /// The newest state is not on disk, or the disk has refused it; the next scan saves it.
    pub(super) is_unsaved: bool,
    pub(super) history: Arc<History>,
    /// Number of the next entry of the history.
    pub(super) next_entry: u64,
    /// Entries that wait for the disk.
    pub(super) recorded: Recorded,
}

/// An answer that is given when the state that it tells of is on disk.
pub(super) struct Unanswered {
    number: u64,
    answer: ChangeReply,
    reply: oneshot::Sender<ChangeReply>,
}

impl Core {
    /// Serves commands until [`Command::Stop`], or until nobody can send any more.
    pub(super) fn run(mut self, commands: &mut mpsc::Receiver<Command>, runtime: &Handle) {
        while let Some(command) = self.next(commands, runtime) {
            match command {
                Command::Change(asked) => {
                    self.change(*asked);
                    self.follow_policy();
                }
                Command::Apply(asked) => {
                    self.take_apply(asked);
                    self.follow_policy();
                }
                Command::Counted(counted) => {
                    self.take_counted(counted);
                    self.follow_policy();
                }
                Command::Scanned(scanned) => {
                    self.take_scan(scanned);
                    self.follow_policy();
                }
                Command::Health(news) => self.take_health(news),
                Command::Interfaces(interfaces) => self.take_interfaces(interfaces),
                Command::Written(written) => self.take_written(written),
                Command::Deadline => self.end_overdue(),
                Command::Stop => break,
            }
        }
        self.writer.finish();
    }

    fn take_counted(&mut self, Counted { asked, busy }: Counted) {
        if asked.after == self.applies {
            self.apply(*asked.asked, &busy);
        } else {
            self.take_apply(asked.asked);
        }
    }

    /// What comes next; `None`: nobody can send any more.
    fn next(&self, commands: &mut mpsc::Receiver<Command>, runtime: &Handle) -> Option<Command> {
        let deadlines = [
            self.board.next_deadline_boot_ms(),
            self.asking.next(),
            self.follow_due,
            self.patience_ends(),
        ];
        let Some(at) = deadlines.into_iter().flatten().min() else {
            return commands.blocking_recv();
        };
        let left = Duration::from_millis(at.saturating_sub(clock::boot_ms()));
        // Before any command: what was due while no agent ran, and whatever else comes.
        if left.is_zero() {
            return Some(Command::Deadline);
        }
        let received = runtime.block_on(async { timeout(left, commands.recv()).await });
        received.unwrap_or(Some(Command::Deadline))
    }

    /// The disk's word: readers see the state now, and who waited for it hears how it went.
    fn take_written(&mut self, written: Written) {
        if let Err(error) = &written.result {
            tracing::error!(%error, "the switch state is in the kernel, but not on disk");
        }
        // Readers may know of a newer one that is not on disk.
        self.is_unsaved = written.result.is_err() || self.shown > written.number;
        self.written = written.number;
        self.owed_since = clock::boot_ms();
        if written.result.is_ok() {
            self.saved = written.board.generation;
            self.forget_kept();
        }
        let error = written.result.err();
        self.show(
            written.number,
            error.as_ref(),
            Some((written.board, written.configured)),
        );
    }

    /// When nobody waits for the disk any longer, if something waits.
    fn patience_ends(&self) -> Option<u64> {
        let is_waited_for = self.shown < self.writer.newest();
        is_waited_for.then(|| self.owed_since.saturating_add(DISK_PATIENCE_MS))
    }

    /// A disk that does not answer must not hide what is so: readers see it, hooks are run, and who waits for an
    /// answer hears that it is not durable, as if the disk had refused it.
    fn lose_patience(&mut self) {
        let error = disk_stalls();
        tracing::error!(%error, "the switch state is in the kernel, and not yet on disk");
        self.is_unsaved = true;
        self.show(self.writer.newest(), Some(&error), None);
    }

    /// Shows readers all states up to a number, which the disk has, unless there is an `error`.
    fn show(
        &mut self,
        number: u64,
        error: Option<&ApiError>,
        answered: Option<(Switchboard, Arc<Configured>)>,
    ) {
        self.shown = self.shown.max(number);
        self.publish_entries(number, error);
        self.publish(None, answered);
        while let Some(waiting) = self
            .unanswered
            .pop_front_if(|waiting| waiting.number <= number)
        {
            let error = error.map(|error| not_durable(waiting.answer.difference.is_some(), error));
            let _ = waiting.reply.send(ChangeReply {
                error,
                ..waiting.answer
            });
        }
    }

    /// Makes `next` true in the kernel by one store and keeps it. Returns after the barrier.
    ///
    /// Orders to cut a color's flows are taken back before it can become active again, and given
    /// when no fresh flow comes to it any more.
    fn switch_to(&mut self, mut next: Switchboard) -> Result<Replaced, ApiError> {
        // A pause begins before the barrier and so holds when it has passed.
        let mut before = orders(&next, &self.ids, &self.config);
        let wanted = std::mem::replace(&mut before.colors, drain_orders(&self.board, &self.ids));
        before.colors.retain(|color, _| wanted.contains_key(color));
        self.give_slots_for(&next);
        self.path
            .keep_with_switch(unsaved::encode(&next, self.saved));
        let switched = self.path.set_orders(before).and_then(|()| {
            let states = self.removals.encode(&next, &self.ids);
            self.path.switch(&states)
        });
        if switched.is_ok() {
            next.barrier_passed(clock::now(), |service, color| {
                tally_of(&self.counters, &self.ids, service, color)
            });
            // Which unhealthy backends stay depends on the active color.
            let (before, config) = (without_slots(&self.config, &self.board), &self.config);
            if before != without_slots(config, &next) {
                self.follow_at(clock::boot_ms());
            }
            self.board = next;
        }
        // Those of the state that holds now, whichever it is.
        if let Err(error) = self.set_orders() {
            tracing::error!(%error, "what is left at the drains' deadlines would not be cut");
        }
        let replaced = switched.map_err(|error| data_path(&error))?;
        self.set_idle_timeouts();
        self.collector.pace(self.board.is_draining());
        Ok(replaced)
    }

    /// Once the disk has it all, what the kernel keeps for the next agent would only grow old.
    fn forget_kept(&mut self) {
        if self.written == self.writer.newest()
            && let Err(error) = self.path.forget_kept()
        {
            tracing::warn!(%error, "the kernel keeps what is on disk meanwhile");
        }
    }

    /// Orders what the board wants. What fails is tried again.
    fn set_orders(&mut self) -> Result<(), DataPathError> {
        self.give_orders(orders(&self.board, &self.ids, &self.config))
    }

    /// As [`Self::set_orders`], for who knows already what the board wants.
    fn give_orders(&mut self, wanted: Orders) -> Result<(), DataPathError> {
        let done = self.path.set_orders(wanted);
        if done.is_err() {
            self.follow_at(clock::now().plus_ms(RETRY_MS).boot_ms);
        }
        done
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
            reads = scanned.scan.reads,
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
            // Nobody else counts what a scan cuts.
            self.is_unsaved |= cut_by_scans(&next).ne(cut_by_scans(&self.board));
            self.board = next;
        } else {
            self.end_drains(next, &ended);
        }
        self.observe_removals(&scanned);
        // One that stalls must not gather states that wait for it.
        if self.is_unsaved && self.written == self.writer.newest() {
            self.save(Vec::new());
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
        let entries = self.entries_of_drains(ended);
        self.save(entries);
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
    fn publish(&self, scan: Option<Scan>, answered: Option<(Switchboard, Arc<Configured>)>) {
        self.view.send_modify(|view| {
            let scan = scan.map(Arc::new).or_else(|| view.scan.clone());
            let is_settled = self.shown == self.writer.newest();
            let (board, config, ids) = if is_settled {
                (self.board.clone(), self.config.clone(), self.ids.clone())
            } else if let Some((board, configured)) = answered {
                (board, configured.config.clone(), configured.ids.clone())
            } else {
                (view.board.clone(), view.config.clone(), view.ids.clone())
            };
            *view = Arc::new(View {
                config,
                ids,
                board,
                is_settled,
                scan,
                interfaces: self.interfaces.clone(),
                removed: if is_settled {
                    self.removals.all().into()
                } else {
                    view.removed.clone()
                },
                at: clock::now(),
                ..View::clone(view)
            });
        });
    }
}

/// What the scans have cut for each drain.
fn cut_by_scans(board: &Switchboard) -> impl Iterator<Item = Option<Cuts>> {
    let drains = board
        .services
        .values()
        .map(|service| service.drain.as_ref());
    drains.map(|drain| drain.map(|drain| drain.cut_by_scans))
}
