//! A change on its way: planned, made true, answered when it is durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Core, Unanswered,
    encode::without_slots,
    errors::{data_path, refused},
    record::{Deed, told, what},
};
use crate::{
    agent::{clock, control::unknown, gate::ConfiguredGate},
    api::{
        Peer, check,
        requests::{ChangeRequest, Endpoint, Terms},
        types::{ApiError, ChangeReply, ErrorCode},
    },
    config::ServiceConfig,
    datapath::Replaced,
    failover,
    switching::{AtDeadline, Change, Conditions, DrainTerms, Order, Switchboard},
};

/// A change that was asked for.
pub(in crate::agent) struct Asked {
    pub(in crate::agent) request: ChangeRequest,
    pub(in crate::agent) peer: Peer,
    pub(in crate::agent) arrived: Instant,
    pub(in crate::agent) reply: oneshot::Sender<ChangeReply>,
}

/// What a change did to the kernel.
enum Made {
    /// One store made it visible.
    Visible(Replaced),
    /// Packets see nothing of it.
    Unseen,
}

impl Core {
    /// Carries out a change, or says why not. An answer that tells of a change, or of one that the disk
    /// may not have yet, waits for the disk.
    pub(super) fn change(&mut self, asked: Asked) {
        let terms = asked.request.terms();
        let deed = Deed {
            what: what(&asked.request),
            services: terms.services.clone(),
            by: Some(asked.peer.into()),
            reason: terms.reason.clone(),
            from_generation: self.board.generation,
        };
        let drilled = match &asked.request {
            ChangeRequest::Drill(_) => self.may_drill(&terms).map(Some),
            _ => Ok(None),
        };
        let answer = match &drilled {
            Ok(_) => self.try_change(&asked.request, &terms, asked.peer, asked.arrived),
            Err(error) => Err(error.clone()),
        };
        let answer = answer.unwrap_or_else(|error| ChangeReply {
            error: Some(error),
            ..self.reply(&terms, false)
        });
        let is_settled = self.unanswered.is_empty() && !self.is_unsaved;
        let tells_no_change = !answer.changed && (is_settled || answer.error.is_some());
        if terms.dry_run || tells_no_change {
            // A client that has left gets no answer.
            let _ = asked.reply.send(answer);
            return;
        }
        let mut entry = answer.changed.then(|| self.entry(deed, None));
        if let (Some(entry), Ok(Some(evidence))) = (&mut entry, drilled) {
            entry.evidence = Some(told(&evidence));
        }
        let number = self.save(entry.into_iter().collect());
        self.unanswered.push_back(Unanswered {
            number,
            answer,
            reply: asked.reply,
        });
    }

    fn try_change(
        &mut self,
        request: &ChangeRequest,
        terms: &Terms,
        peer: Peer,
        arrived: Instant,
    ) -> Result<ChangeReply, ApiError> {
        let order = self.order(request, terms)?;
        let gate = ConfiguredGate::new(&self.config, &self.board);
        let next = self
            .board
            .changed(&order, &gate, clock::now())
            .map_err(|refusal| refused(&refusal))?;
        let would_change = next != self.board;
        if terms.dry_run || !would_change {
            return Ok(ChangeReply {
                would_change: terms.dry_run.then_some(would_change),
                ..self.reply(terms, false)
            });
        }
        let made = self.make(next)?;
        let since = |instant: Instant| micros(instant - arrived);
        let (visible_us, barrier_us) = match made {
            Made::Visible(replaced) => (
                Some(since(replaced.stored_at)),
                Some(since(replaced.barrier_at)),
            ),
            Made::Unseen => (None, None),
        };
        tracing::info!(
            verb = request.verb(),
            services = terms.services.join(","),
            generation = self.board.generation,
            visible_us,
            barrier_us,
            by = %peer,
            reason = terms.reason.as_deref().unwrap_or(""),
            "changed"
        );
        let is_drill = matches!(request, ChangeRequest::Drill(_));
        Ok(ChangeReply {
            visible_us,
            barrier_us,
            detect_ms: visible_us.filter(|_| is_drill).map(|us| us / 1_000),
            ..self.reply(terms, true)
        })
    }

    /// Makes `next` true in the kernel, as far as packets see anything of it, and keeps it.
    fn make(&mut self, next: Switchboard) -> Result<Made, ApiError> {
        if next.generation != self.board.generation {
            return self.switch_to(next).map(Made::Visible);
        }
        let without = without_slots(&self.config, &next);
        if without != without_slots(&self.config, &self.board) {
            self.fill_tables(&without)
                .map_err(|error| data_path(&error))?;
        }
        self.board = next;
        // The change stands, whatever becomes of the orders.
        if let Err(error) = self.set_orders() {
            tracing::error!(%error, "what is left at the drains' deadlines would not be cut");
        }
        Ok(Made::Unseen)
    }

    /// A request in the state machine's terms; refused where it names what is not configured.
    fn order(&self, request: &ChangeRequest, terms: &Terms) -> Result<Order, ApiError> {
        let (mut timeout_ms, mut at_deadline) = (None, None);
        let mut while_paused = false;
        let change = match request {
            ChangeRequest::Flip(flip) => {
                (timeout_ms, at_deadline) = (flip.drain_timeout_ms, flip.at_deadline);
                while_paused = flip.while_paused;
                Change::Flip {
                    to: flip.to,
                    confirm_within_ms: flip.confirm_within_ms,
                    force: flip.force,
                }
            }
            ChangeRequest::Rollback(rollback) => {
                (timeout_ms, at_deadline) = (rollback.drain_timeout_ms, rollback.at_deadline);
                Change::Rollback {
                    force: rollback.force,
                }
            }
            ChangeRequest::Promote(promote) => {
                (timeout_ms, at_deadline) = (promote.drain_timeout_ms, promote.at_deadline);
                Change::Promote {
                    force: promote.force,
                }
            }
            ChangeRequest::Abort(abort) => {
                (timeout_ms, at_deadline) = (abort.drain_timeout_ms, abort.at_deadline);
                Change::Abort
            }
            ChangeRequest::Confirm(_) => Change::Confirm,
            ChangeRequest::Split(split) => Change::Split {
                percent: split.standby_percent,
            },
            ChangeRequest::Pause(pause) => {
                self.knows_listener(&terms.services, pause.listener.as_deref())?;
                Change::Pause {
                    listener: pause.listener.clone(),
                    max_ms: pause.max_ms.unwrap_or(check::DEFAULT_PAUSE_MS),
                    hard: pause.hard,
                }
            }
            ChangeRequest::Resume(resume) => {
                self.knows_listener(&terms.services, resume.listener.as_deref())?;
                Change::Resume {
                    listener: resume.listener.clone(),
                }
            }
            ChangeRequest::ExtendDrain(extend) => Change::ExtendDrain {
                by_ms: extend.by_ms,
            },
            ChangeRequest::FinishDrain(finish) => Change::FinishDrain {
                at_deadline: finish.at_deadline,
            },
            ChangeRequest::DrainBackend(drain) => {
                self.knows_backend(&terms.services, &drain.backend)?;
                Change::DrainBackend {
                    endpoint: drain.backend.address,
                    force: drain.force,
                }
            }
            ChangeRequest::ResumeBackend(resume) => {
                self.knows_backend(&terms.services, &resume.backend)?;
                Change::ResumeBackend {
                    endpoint: resume.backend.address,
                }
            }
            ChangeRequest::EnableFailover(_) | ChangeRequest::DisableFailover(_) => {
                for service in &terms.services {
                    self.failover_terms(service)?;
                }
                Change::SwitchFailover {
                    on: matches!(request, ChangeRequest::EnableFailover(_)),
                }
            }
            ChangeRequest::Drill(drill) => Change::Drill {
                undone_within_ms: (!drill.stay)
                    .then_some(drill.timeout_ms.unwrap_or(check::DEFAULT_DRILL_MS)),
            },
        };
        Ok(Order {
            services: terms.services.clone(),
            conditions: Conditions {
                expect_active: terms.expect_active,
                if_generation: terms.if_generation,
                while_paused,
            },
            change,
            drains: self.drain_terms(&terms.services, timeout_ms, at_deadline),
        })
    }

    /// How drains of `services` go, where a request does not say otherwise.
    pub(super) fn drain_terms(
        &self,
        services: &[String],
        timeout_ms: Option<u64>,
        at_deadline: Option<AtDeadline>,
    ) -> BTreeMap<String, DrainTerms> {
        let named: BTreeSet<&String> = services.iter().collect();
        let named = (self.config.services.iter()).filter(|service| named.contains(&service.name));
        let terms = |service: &ServiceConfig| {
            let terms = DrainTerms {
                timeout_ms: timeout_ms.unwrap_or(service.drain_timeout.as_millis()),
                at_deadline: at_deadline.unwrap_or(service.at_deadline),
            };
            (service.name.clone(), terms)
        };
        named.map(terms).collect()
    }

    /// The terms of a service's failover; an error, where it has none.
    pub(super) fn failover_terms(&self, service: &str) -> Result<failover::Terms, ApiError> {
        let config = self.config.services.iter().find(|it| it.name == service);
        let config = config.ok_or_else(|| unknown(service))?;
        let terms = config.failover.map(|it| it.terms());
        terms.ok_or_else(|| {
            ApiError::new(
                ErrorCode::Refused,
                format!("{service} has no [service.failover]: the agent changes its active color never by itself"),
                "add [service.failover] to the configuration, and apply it",
            )
        })
    }

    fn knows_listener(&self, services: &[String], listener: Option<&str>) -> Result<(), ApiError> {
        let Some(listener) = listener else {
            return Ok(());
        };
        let configured = (self.config.services.iter())
            .filter(|service| services.contains(&service.name))
            .flat_map(|service| &service.listeners);
        let mut named = configured.filter(|it| it.name == listener);
        match named.next() {
            Some(it) if it.preview => Err(ApiError::new(
                ErrorCode::Refused,
                format!("the listener {listener} is a preview, which is never paused"),
                "name another listener, or the service",
            )),
            Some(_) => Ok(()),
            None => Err(ApiError::new(
                ErrorCode::NotFound,
                format!(
                    "{} has no listener {listener}",
                    services.first().map_or("the service", String::as_str)
                ),
                "`switcher status` lists the listeners",
            )),
        }
    }

    fn knows_backend(&self, services: &[String], backend: &Endpoint) -> Result<(), ApiError> {
        for name in services {
            let service = self.config.services.iter().find(|s| s.name == *name);
            let listeners = service.map_or(&[][..], |service| &service.listeners);
            let mut backends = listeners.iter().flat_map(|it| it.backends(backend.color));
            let (ip, port) = (backend.address.ip(), backend.address.port());
            if service.is_some() && !backends.any(|it| (it.address, it.port) == (ip, port)) {
                return Err(ApiError::new(
                    ErrorCode::NotFound,
                    format!(
                        "{name} has no {} backend {}",
                        backend.color.name(),
                        backend.address
                    ),
                    "`switcher status` lists the backends",
                ));
            }
        }
        Ok(())
    }

    fn reply(&self, terms: &Terms, changed: bool) -> ChangeReply {
        let active = |name: &String| Some((name.clone(), self.board.services.get(name)?.active));
        ChangeReply {
            changed,
            generation: self.board.generation,
            active: terms.services.iter().filter_map(active).collect(),
            would_change: None,
            visible_us: None,
            barrier_us: None,
            detect_ms: None,
            difference: None,
            error: None,
        }
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
