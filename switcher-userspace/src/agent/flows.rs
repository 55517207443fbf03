//! Lists of flows in the API's terms, made on a thread of their own.

use std::{ops::ControlFlow, sync::Arc};

use switcher_common::{flow::Side, scan::Table};
use tokio::sync::mpsc;

use super::{core::data_path, view::View};
use crate::{
    api::flows::{FlowStatus, FlowsLine, FlowsRequest},
    datapath::{FlowLister, ListedFlow},
};

/// Lines that wait for a reader; the list goes on when it takes some.
const QUEUE: usize = 512;

/// Lists flows of the service with `id`. Ends when the reader has left.
pub(super) fn list(
    lister: Arc<FlowLister>,
    view: Arc<View>,
    id: u16,
    request: FlowsRequest,
) -> mpsc::Receiver<FlowsLine> {
    let (lines, reader) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let (mut flows, mut complete) = (0, true);
        let most = u64::from(request.most());
        let ended = lister.list(id, request.color, |flow| {
            if flows == most {
                complete = false;
                return ControlFlow::Break(());
            }
            flows += 1;
            let line = FlowsLine::Flow(Box::new(in_names(&view, flow)));
            match lines.blocking_send(line) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        let last = match ended {
            Ok(()) => FlowsLine::End { flows, complete },
            Err(error) => FlowsLine::Failed {
                error: data_path(&error),
            },
        };
        // A reader that has left needs no end.
        let _ = lines.blocking_send(last);
    });
    reader
}

fn in_names(view: &View, flow: ListedFlow) -> FlowStatus {
    let ListedFlow {
        protocol,
        client,
        vip,
        found,
    } = flow;
    let name = |table: Table| table.name().to_owned();
    let (own, other) = (Some(name(found.table)), found.other_table.map(name));
    let (forward_table, reverse_table) = match found.side {
        Side::Forward => (own, other),
        Side::Reverse => (other, own),
    };
    FlowStatus {
        protocol,
        client,
        vip,
        listener: view.listener_name(vip, protocol).map(str::to_owned),
        color: found.color,
        backend: found.backend,
        state: found.state.name().to_owned(),
        preview: found.preview,
        unpinned: found.unpinned,
        cut: found.cut,
        forward_table,
        reverse_table,
        age_ms: found.age_ms,
        silent_ms: found.silent_ms,
    }
}
