//! Starting: take over or make the data path, agree on the switch state, then attach.
//!
//! With new maps any failure takes everything away again; what was pinned before stays as it was.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use tokio::sync::{mpsc, watch};

use super::{
    adopt::{self, Kernel},
    applied::{AppliedFile, Chosen},
    checks::WantedProof,
    clock,
    collector::{Collector, ServiceIds},
    configured::Configured,
    core::{
        Asking, Command, Core, Observed, Recorded, Removals, data_path, empty_listener, encode,
        leaving, orders, overlaid, ready_services, tally_of, without_slots,
    },
    history::{History, HistoryFile},
    interfaces,
    resetter::Resetter,
    state_file::StateFile,
    unsaved,
    view::View,
    writer::{Files, Log, Writer},
};
use crate::{
    api::types::{ApiError, ErrorCode},
    config::{AttachMode, Config},
    datapath::{
        Attached, Counters, DataPath, DataPathError, Explainer, FlowLister, ProgramLog, Reports,
        Scanner, Tracer, Wanted,
    },
    interfaces::Interfaces,
    preflight,
    switching::{Service, Switchboard},
};

/// Services that may wait for their standby's proof to be asked for.
const MAX_PROOFS: usize = 64;

/// A started agent's parts.
pub(super) struct Started {
    pub(super) core: Core,
    pub(super) collector: Collector,
    pub(super) history: Arc<History>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) counters: Counters,
    pub(super) explainer: Explainer,
    pub(super) lister: FlowLister,
    pub(super) tracer: Tracer,
    pub(super) reports: Reports,
    pub(super) proofs: mpsc::Receiver<WantedProof>,
    pub(super) log: ProgramLog,
}

/// The data path, ready for traffic.
struct Ready {
    scanner: Scanner,
    counters: Counters,
    explainer: Explainer,
    lister: FlowLister,
    tracer: Tracer,
    reports: Reports,
    log: ProgramLog,
    board: Switchboard,
    ids: BTreeMap<String, u16>,
}

pub(super) fn start(chosen: Chosen, commands: mpsc::Sender<Command>) -> anyhow::Result<Started> {
    let config = Arc::new(chosen.config);
    let boot_id = clock::boot_id()?;
    let file = StateFile::open(&config.agent.state_dir, boot_id.clone())?;
    let applied = AppliedFile::of(&config.agent.state_dir);
    let mut watched = interfaces::Watched::open()?;
    let node = Arc::new(watched.read()?);
    let mut path = DataPath::open(&config.agent).map_err(|error| data_path(&error))?;
    let adopted = path.adopted();
    let ready = match prepare(&mut path, &config, &node, &file, &boot_id) {
        Ok(ready) => ready,
        Err(error) => {
            if !adopted && let Err(left) = path.remove() {
                tracing::error!(error = %left, "the new data path is not removed");
            }
            return Err(error.into());
        }
    };
    if chosen.is_overruled {
        // Otherwise it would come back with the own file's old content.
        if let Err(error) = applied.keep(&chosen.kept) {
            tracing::error!(%error, "the overruled configuration is not forgotten");
        }
    }
    let ids = Arc::new(ready.ids);
    let service_ids = ServiceIds {
        highest: ids.values().copied().max().unwrap_or(0),
        limit: path.highest_service(),
    };
    let core_counters = path.counters().map_err(|error| data_path(&error))?;
    let (history_file, entries) = HistoryFile::open(&config.agent.state_dir);
    let history = Arc::new(History::new(entries.clone()));
    let files = Files {
        state: file,
        applied,
        kept: Arc::new(Configured {
            config: config.clone(),
            ids: ids.clone(),
            kept: chosen.kept,
        }),
        log: Log::new(history_file, entries),
    };
    let writer = Writer::start(files, commands.clone())?;
    watched.start(commands.clone(), path.hop_watch())?;
    let collector = Collector::start(ready.scanner, service_ids, commands)?;
    let removals = Removals::of(&path, &ids, None).map_err(|error| data_path(&error))?;
    collector.set_removing(!removals.all().is_empty());
    collector.pace(ready.board.is_draining());
    let (view, published) = watch::channel(Arc::new(View {
        config: config.clone(),
        ids: ids.clone(),
        board: ready.board.clone(),
        scan: None,
        interfaces: node.clone(),
        removed: removals.all().into(),
        is_settled: true,
        at: clock::now(),
        started_at: SystemTime::now(),
        adopted,
    }));
    let saved = ready.board.generation;
    let asking = Asking::at_start(&config, &ready.board, clock::now());
    let (prover, proofs) = mpsc::channel(MAX_PROOFS);
    let core = Core {
        prover,
        config,
        path,
        board: ready.board,
        interfaces: node,
        ids,
        applies: 0,
        counters: core_counters,
        writer,
        follow_due: None,
        asking,
        collector: collector.clone(),
        removals,
        view,
        unanswered: VecDeque::new(),
        written: 0,
        shown: 0,
        owed_since: clock::boot_ms(),
        saved,
        is_unsaved: false,
        next_entry: history.next_number(),
        history: history.clone(),
        recorded: Recorded::default(),
    };
    Ok(Started {
        core,
        collector,
        history,
        view: published,
        counters: ready.counters,
        explainer: ready.explainer,
        lister: ready.lister,
        tracer: ready.tracer,
        reports: ready.reports,
        proofs,
        log: ready.log,
    })
}

fn prepare(
    path: &mut DataPath,
    config: &Config,
    node: &Interfaces,
    file: &StateFile,
    boot_id: &str,
) -> Result<Ready, ApiError> {
    let kernel_error = |error: DataPathError| data_path(&error);
    let mut scanner = path.scanner().map_err(kernel_error)?;
    if let Err(error) = path.count_send_errors() {
        tracing::warn!(%error, "frames that are lost after the program's verdict are not counted");
    }
    let counters = path.counters().map_err(kernel_error)?;
    let explainer = path.explainer().map_err(kernel_error)?;
    let lister = path.flow_lister().map_err(kernel_error)?;
    let tracer = path.tracer().map_err(kernel_error)?;
    let reports = path.reports().map_err(kernel_error)?;
    let log = path.logger().map_err(kernel_error)?;
    let kernel = kernel_state(path).map_err(kernel_error)?;
    let on_disk = file.read()?;
    let mut board = adopt::board(config, &kernel, on_disk.as_ref(), boot_id, clock::now());
    refuse_empty_colors(config, &board)?;
    // First what may fail, then what packets see: new links meet the data path as it is, and the
    // state is the kernel's own so far.
    let facts = path.facts().map_err(kernel_error)?;
    interfaces::tell(path, config, &Interfaces::default(), node);
    let attached = attach(path, config).map_err(kernel_error)?;
    if let Err(error) = file.write(&board) {
        path.undo_attach(&attached).map_err(kernel_error)?;
        return Err(error);
    }
    let mut ids = BTreeMap::new();
    let wanted = Wanted {
        config,
        drained: &without_slots(config, &board),
        // What ran before is not known any more.
        leaving: &leaving(None, config),
    };
    let applied = path.apply(&wanted, &mut scanner, |path, services| {
        ids = services
            .iter()
            .map(|(id, name)| (name.clone(), *id))
            .collect();
        ready_services(path, config, &board, &ids)
    });
    if let Err(error) = applied {
        path.undo_attach(&attached).map_err(kernel_error)?;
        return Err(kernel_error(error));
    }
    path.enable().map_err(kernel_error)?;
    path.detach_others(&config.agent).map_err(kernel_error)?;
    // The store above was a barrier for everything that an earlier agent did.
    board.barrier_passed(clock::now(), |service, color| {
        tally_of(&counters, &ids, service, color)
    });
    tracing::info!(
        adopted = path.adopted(),
        generation = board.generation,
        verified_instructions = facts.verified_instructions,
        "data path ready"
    );
    path.set_orders(orders(&board, &ids, config))
        .map_err(kernel_error)?;
    end_overdue_drains(path, &mut board, &mut scanner, &counters, &ids).map_err(kernel_error)?;
    path.set_orders(orders(&board, &ids, config))
        .map_err(kernel_error)?;
    Ok(Ready {
        scanner,
        counters,
        explainer,
        lister,
        tracer,
        reports,
        log,
        board,
        ids,
    })
}

/// Carries out what drains wanted whose deadline passed while no agent ran.
fn end_overdue_drains(
    path: &mut DataPath,
    board: &mut Switchboard,
    scanner: &mut Scanner,
    counters: &Counters,
    ids: &BTreeMap<String, u16>,
) -> Result<(), DataPathError> {
    let is_overdue = |board: &Switchboard, boot_ms: u64| {
        let mut running = board.services.values().filter_map(Service::running_drain);
        running.any(|drain| drain.deadline.boot_ms <= boot_ms)
    };
    let mut began_boot_ms = clock::boot_ms();
    if !is_overdue(board, began_boot_ms) {
        return Ok(());
    }
    let mut resetter = Resetter::open();
    let highest = ids.values().copied().max().unwrap_or(0);
    // Each scan brings every overdue drain nearer to its end, so there are a few at most.
    while is_overdue(board, began_boot_ms) {
        let scan = scanner.scan(highest, true, |flow| resetter.reset(flow))?;
        let observed = Observed {
            scan: &scan,
            began_boot_ms,
            ids,
            counters,
        };
        for drain in &board.observe(&observed, clock::now()) {
            tracing::info!(
                service = drain.service,
                color = drain.color.name(),
                "drain ended, its deadline passed while no agent ran"
            );
        }
        began_boot_ms = clock::boot_ms();
    }
    let states = overlaid(path.switch_states()?, &encode(board, ids), ids);
    path.switch(&states).map(drop)
}

/// Fresh flows of a listener whose active color has no backend would all be dropped (G6).
fn refuse_empty_colors(config: &Config, board: &Switchboard) -> Result<(), ApiError> {
    let Some((service, listener, active)) = empty_listener(config, board) else {
        return Ok(());
    };
    let (standby, active) = (active.other().name(), active.name());
    Err(ApiError::new(
        ErrorCode::Refused,
        format!(
            "cannot start with this configuration: {active} is active in {service}, and listener {} has no {active} backend",
            listener.name
        ),
        format!(
            "configure backends of {active}, or flip to {standby} under the configuration before"
        ),
    ))
}

fn kernel_state(path: &DataPath) -> Result<Kernel, DataPathError> {
    if !path.adopted() {
        return Ok(Kernel::default());
    }
    let states = path.switch_states()?;
    let state = |id: u16| states.get(usize::from(id)).copied();
    Ok(Kernel {
        generation: state(0).map_or(0, |node| node.generation),
        services: path
            .services()
            .into_iter()
            .filter_map(|(id, name)| Some((name, state(id)?)))
            .collect(),
        unsaved: unsaved::decode(&path.kept_with_switch()?),
    })
}

fn attach(path: &mut DataPath, config: &Config) -> Result<Vec<(String, Attached)>, DataPathError> {
    let done = path.attach(&config.agent)?;
    let modes = preflight::attached_modes();
    for (interface, attached) in &done {
        let mode = modes.get(interface).copied().unwrap_or("unknown");
        match attached {
            Attached::Already if !is_wanted(config.agent.mode, mode) => tracing::warn!(
                interface,
                mode,
                "still attached, not in the configured mode; `switcher detach` first, to change it"
            ),
            Attached::Already => tracing::info!(interface, mode, "still attached"),
            Attached::Now(mode) => tracing::info!(interface, mode = mode.name(), "attached"),
        }
    }
    Ok(done)
}

fn is_wanted(wanted: AttachMode, mode: &str) -> bool {
    match wanted {
        AttachMode::Auto => true,
        AttachMode::Native => mode == "native",
        AttachMode::Generic => mode == "generic",
    }
}
