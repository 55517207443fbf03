//! Another configuration on its way: planned, made visible by one store, answered when it is durable.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Instant};

use tokio::sync::oneshot;

use super::{
    Core, Counting, Unanswered,
    change::micros,
    encode::{encode, overlaid, udp_idle_ms, without_slots},
    errors::{data_path, too_many_counts},
    record::Deed,
    removals::{Removals, leaving},
    unfit,
};
use crate::{
    agent::{adopt::configured_only, applied::Kept, configured::Configured},
    api::{
        Peer,
        history::{HistoryEntry, What, Who},
        types::{ApiError, ChangeReply, ErrorCode},
    },
    config::{Config, difference::Difference},
    datapath::{Busy, DataPath, DataPathError, Replaced, Wanted},
    switching::{Service, Switchboard},
};

/// A configuration that was asked for.
pub(in crate::agent) struct AskedApply {
    pub(in crate::agent) config: Arc<Config>,
    /// Which text is to hold after a restart.
    pub(in crate::agent) kept: Kept,
    /// Its hooks are those of the agent's own file, which only its owner can write.
    pub(in crate::agent) has_own_hooks: bool,
    /// Name of the file that it is from.
    pub(in crate::agent) file: String,
    /// Refuse with a conflict unless the node has this generation.
    pub(in crate::agent) if_generation: Option<u64>,
    pub(in crate::agent) dry_run: bool,
    pub(in crate::agent) reason: Option<String>,
    pub(in crate::agent) by: By,
    pub(in crate::agent) arrived: Instant,
    pub(in crate::agent) reply: oneshot::Sender<ChangeReply>,
}

/// Who asked for a configuration.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) enum By {
    /// A client of the API.
    Client(Peer),
    /// Whoever sent SIGHUP.
    Signal,
}

impl By {
    /// As the history tells it.
    fn who(self) -> Option<Who> {
        match self {
            Self::Client(peer) => Some(peer.into()),
            Self::Signal => None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(peer) => peer.fmt(f),
            Self::Signal => f.write_str("SIGHUP"),
        }
    }
}

/// What an apply comes to.
struct Plan {
    difference: Difference,
    board: Switchboard,
}

impl Core {
    /// Begins an apply. One that changes anything waits for a count of what flows refer to.
    pub(super) fn take_apply(&mut self, asked: Box<AskedApply>) {
        let plan = match self.plan(&asked) {
            Ok(plan) => plan,
            Err(error) => return self.refuse(*asked, error),
        };
        let is_same = plan.difference.is_empty();
        if asked.dry_run {
            let _ = asked.reply.send(ChangeReply {
                would_change: Some(!is_same),
                difference: Some(Box::new(plan.difference)),
                ..self.state(false)
            });
        } else if is_same {
            self.keep(*asked, plan.difference);
        } else {
            let after = self.applies;
            let counting = Counting { asked, after };
            if let Err(Counting { asked, .. }) = self.collector.count_for(counting) {
                self.refuse(*asked, too_many_counts());
            }
        }
    }

    /// Carries out an apply. What was planned before the count may hold no more, so it is planned anew.
    pub(super) fn apply(&mut self, asked: AskedApply, busy: &Busy) {
        let before = self.board.clone();
        let planned = self.plan(&asked).and_then(|plan| {
            let replaced = self.make_applied(&asked, plan.board, busy)?;
            Ok((plan.difference, replaced))
        });
        let (difference, replaced) = match planned {
            Ok(done) => done,
            Err(error) => return self.refuse(asked, error),
        };
        let since = |instant: Instant| micros(instant - asked.arrived);
        let visible_us = replaced.map(|replaced| since(replaced.stored_at));
        let barrier_us = replaced.map(|replaced| since(replaced.barrier_at));
        tracing::info!(
            verb = "apply",
            file = ?asked.file,
            services = difference.services.len(),
            generation = self.board.generation,
            visible_us,
            barrier_us,
            by = %asked.by,
            reason = asked.reason.as_deref().unwrap_or(""),
            "changed"
        );
        let answer = ChangeReply {
            visible_us,
            barrier_us,
            difference: Some(Box::new(difference)),
            ..self.state(true)
        };
        self.configure(asked.kept);
        let deed = Deed {
            what: What::Apply,
            services: changed_services(&answer),
            by: asked.by.who(),
            reason: asked.reason,
            from_generation: self.board.generation,
        };
        let mut entries = vec![self.entry(deed, None)];
        entries.extend(self.end_alarms_of_removed(&before));
        self.answer_when_written(answer, entries, asked.reply);
    }

    /// The running configuration was asked for: only what holds after a restart may change.
    fn keep(&mut self, asked: AskedApply, difference: Difference) {
        let answer = ChangeReply {
            difference: Some(Box::new(difference)),
            ..self.state(false)
        };
        let is_kept = self.writer.configured().kept == asked.kept;
        if is_kept && self.unanswered.is_empty() && !self.is_unsaved {
            // A client that has left gets no answer.
            let _ = asked.reply.send(answer);
            return;
        }
        // Its parts may stand in another order.
        self.config = asked.config;
        self.configure(asked.kept);
        self.answer_when_written(answer, Vec::new(), asked.reply);
    }

    /// What is written to disk from now on belongs to the configuration that runs now.
    fn configure(&mut self, kept: Kept) {
        self.writer.configure(Arc::new(Configured {
            config: self.config.clone(),
            ids: self.ids.clone(),
            kept,
        }));
    }

    fn answer_when_written(
        &mut self,
        answer: ChangeReply,
        entries: Vec<HistoryEntry>,
        reply: oneshot::Sender<ChangeReply>,
    ) {
        let number = self.save(entries);
        self.unanswered.push_back(Unanswered {
            number,
            answer,
            reply,
        });
    }

    fn refuse(&self, asked: AskedApply, error: ApiError) {
        let _ = asked.reply.send(ChangeReply {
            error: Some(error),
            ..self.state(false)
        });
    }

    /// The answer that tells the state of all services.
    fn state(&self, changed: bool) -> ChangeReply {
        let services = self.board.services.iter();
        ChangeReply {
            changed,
            generation: self.board.generation,
            active: services
                .map(|(name, service)| (name.clone(), service.active))
                .collect(),
            would_change: None,
            visible_us: None,
            barrier_us: None,
            detect_ms: None,
            difference: None,
            error: None,
        }
    }

    fn plan(&self, asked: &AskedApply) -> Result<Plan, ApiError> {
        if let Some(expected) = asked.if_generation
            && expected != self.board.generation
        {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "cannot apply {}: the node's newest change is generation {}, {expected} was expected",
                    asked.file, self.board.generation
                ),
                "somebody else has changed it: look at `switcher status`, then decide again",
            ));
        }
        unfit::fixed_keys(&self.config, asked)?;
        let board = next_board(&self.board, &asked.config, &self.removals);
        unfit::moved_colors(&self.config, &self.board, asked, &board)?;
        unfit::empty_colors(&self.config, &self.board, asked, &board)?;
        Ok(Plan {
            difference: Difference::between(&self.config, &asked.config),
            board,
        })
    }

    /// Makes the configuration true in the kernel, and keeps it. An error leaves all as it was.
    fn make_applied(
        &mut self,
        asked: &AskedApply,
        board: Switchboard,
        busy: &Busy,
    ) -> Result<Option<Replaced>, ApiError> {
        let config = &asked.config;
        let rate = |config: &Config| config.agent.limits.inserts_per_second;
        let wanted = Wanted {
            config,
            drained: &without_slots(config, &board),
            leaving: &leaving(Some(&self.config), config),
        };
        let mut ids = BTreeMap::new();
        let applied = self.path.apply_counted(&wanted, busy, |path, services| {
            ids = by_name(services);
            ready_services(path, config, &board, &ids)?;
            path.set_inserts_per_second(rate(config))
        });
        let replaced = match applied {
            Ok(replaced) => replaced,
            Err(error) => {
                self.set_idle_timeouts();
                if let Err(error) = self.path.set_inserts_per_second(rate(&self.config)) {
                    tracing::error!(%error, "the rate of inserts is that of a refused configuration");
                }
                return Err(data_path(&error));
            }
        };
        self.applies += 1;
        self.config = config.clone();
        self.ids = Arc::new(ids);
        self.board = board;
        self.learn_removals();
        if let Err(error) = self.set_orders() {
            tracing::error!(%error, "pauses and drains do not follow the configuration");
        }
        let highest = self.ids.values().copied().max().unwrap_or(0);
        self.collector.set_highest_service(highest);
        self.collector.pace(self.board.is_draining());
        Ok(replaced)
    }
}

/// Names of the services that an apply has changed.
fn changed_services(answer: &ChangeReply) -> Vec<String> {
    let difference = answer.difference.as_deref();
    let services = difference.map_or(&[][..], |difference| &difference.services);
    services
        .iter()
        .map(|service| service.name.clone())
        .collect()
}

/// Ids of services by their names.
fn by_name(services: &[(u16, String)]) -> BTreeMap<String, u16> {
    let services = services.iter();
    services.map(|(id, name)| (name.clone(), *id)).collect()
}

/// Gives the services of `config` their idle timeouts and switch states, before packets can see them.
pub(in crate::agent) fn ready_services(
    path: &mut DataPath,
    config: &Config,
    board: &Switchboard,
    ids: &BTreeMap<String, u16>,
) -> Result<(), DataPathError> {
    for service in &config.services {
        if let (Some(&id), Some(state)) =
            (ids.get(&service.name), board.services.get(&service.name))
        {
            path.set_idle(id, service, udp_idle_ms(service, state))?;
        }
    }
    // Services that are about to be removed keep their state while packets can see them.
    let before = path.switch_states()?;
    path.switch(&overlaid(before, &encode(board, ids), ids))
        .map(drop)
}

/// The switch state with the services of `config`: colors, splits, pauses and drains stay as they are.
/// A service that was removed and comes again while something of it is known goes on with its color.
fn next_board(board: &Switchboard, config: &Config, removals: &Removals) -> Switchboard {
    let services = config.services.iter().map(|service| {
        let known = board.services.get(&service.name);
        let state = known.map_or_else(
            || {
                let removed = removals.active(&service.name);
                Service::new(removed.unwrap_or(service.initial_active))
            },
            |state| configured_only(state.clone(), service),
        );
        (service.name.clone(), state)
    });
    Switchboard {
        generation: board.generation,
        services: services.collect(),
    }
}
