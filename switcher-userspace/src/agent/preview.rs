//! What there is to say of a service's standby before a flip.

use super::{
    control::unknown,
    gate::{ConfiguredGate, is_eligible},
    view::{View, backend_status},
};
use crate::{
    api::{
        preview::{GateObstacle, PreviewBackend, PreviewListener, PreviewReply},
        types::{ApiError, ErrorCode},
    },
    config::{BackendConfig, ListenerConfig, ServiceConfig},
    switching::{Gate as _, Service},
};

/// The preview of `name`; refused without a preview listener.
pub(super) fn preview(view: &View, name: &str) -> Result<PreviewReply, ApiError> {
    let config = (view.config.services.iter()).find(|service| service.name == name);
    let state = view.board.services.get(name);
    let (Some(config), Some(state)) = (config, state) else {
        return Err(unknown(name));
    };
    let listeners = |preview: bool| -> Vec<PreviewListener> {
        let wanted = config.listeners.iter().filter(|it| it.preview == preview);
        wanted.map(|it| listener(it, config, state)).collect()
    };
    let previews = listeners(true);
    if previews.is_empty() {
        return Err(ApiError::new(
            ErrorCode::Refused,
            format!("cannot preview {name}: none of its listeners is a preview listener"),
            "give it a [[service.listener]] with `preview = true` and an address of its own, then `switcher apply` \
             the file; `switcher status` shows the standby's backends meanwhile",
        ));
    }
    let standby = state.standby();
    let gate = ConfiguredGate::new(&view.config, &view.board);
    let shortage = gate.shortage(name, standby, &state.drained_backends);
    Ok(PreviewReply {
        service: name.to_owned(),
        active: state.active,
        standby,
        generation: state.generation,
        preview_flows: view.preview_flows(name),
        previews,
        listeners: listeners(false),
        passes_gate: shortage.is_none(),
        obstacle: shortage.map(|shortage| GateObstacle {
            listener: shortage.listener,
            eligible: shortage.eligible as u64,
            min_healthy: shortage.min_healthy,
        }),
    })
}

fn listener(config: &ListenerConfig, service: &ServiceConfig, state: &Service) -> PreviewListener {
    let backend = |backend: &BackendConfig| PreviewBackend {
        status: backend_status(backend, state),
        eligible: is_eligible(backend, service, state, &state.drained_backends),
    };
    let backends = config.backends(state.standby()).iter();
    PreviewListener {
        name: config.name.clone(),
        vip: config.vip,
        port: config.port,
        protocol: config.protocol,
        backends: backends.map(backend).collect(),
    }
}
