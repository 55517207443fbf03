//! An explanation in the API's terms: names instead of ids.

use super::view::View;
use crate::{
    api::{
        explain::{
            ExplainQuestion, ExplainedFlow, ExplainedListener, ExplainedSelection, ExplainedWay,
            Explanation, Outcome, TriedBackend, Why as WireWhy,
        },
        types::ApiError,
    },
    datapath::{
        Explained, Explainer, FoundFlow, FoundListener, Question, Selection, Tried, Way, Why,
    },
};

/// Answers `question`.
pub(super) fn explain(
    explainer: &Explainer,
    view: &View,
    question: &ExplainQuestion,
) -> Result<Explanation, ApiError> {
    let asked = Question {
        protocol: question.protocol,
        from: question.client,
        to: question.vip,
    };
    let found = explainer
        .explain(&asked)
        .map_err(|error| super::core::data_path(&error))?;
    Ok(in_names(view, question, found))
}

fn in_names(view: &View, question: &ExplainQuestion, explained: Explained) -> Explanation {
    let service = |id: u16| view.service_name(id).map(str::to_owned);
    let listener = |found: FoundListener| ExplainedListener {
        service: service(found.service),
        name: view
            .listener_name(question.vip, question.protocol)
            .map(str::to_owned),
        preview: found.preview,
        active: found.active,
        base: found.base,
        generation: found.generation,
    };
    let flow = |found: FoundFlow| ExplainedFlow {
        table: found.table.name().to_owned(),
        direction: found.side.name().to_owned(),
        state: found.state.name().to_owned(),
        service: service(found.service),
        color: found.color,
        backend: found.backend,
        preview: found.preview,
        unpinned: found.unpinned,
        cut: found.cut,
        both_directions: found.other_table.is_some(),
        age_ms: found.age_ms,
        silent_ms: found.silent_ms,
    };
    Explanation {
        protocol: question.protocol,
        client: question.client,
        vip: question.vip,
        listener: explained.listener.map(listener),
        is_vip: explained.to_vip,
        flow: explained.flow.map(flow),
        begins: way(explained.begins),
        mid_stream: explained.mid_stream.map(way),
    }
}

fn way(way: Way) -> ExplainedWay {
    let nothing = ExplainedWay {
        outcome: Outcome::Pass,
        why: None,
        reason: None,
        color: None,
        from: None,
        to: None,
        selection: None,
    };
    match way {
        Way::Pass(reason) => ExplainedWay {
            reason: Some(reason.name().to_owned()),
            ..nothing
        },
        Way::Answer { reason, color } => ExplainedWay {
            outcome: Outcome::Answer,
            reason: Some(reason.name().to_owned()),
            color: Some(color),
            ..nothing
        },
        Way::Drop {
            reason,
            color,
            selection: tried,
        } => ExplainedWay {
            outcome: Outcome::Drop,
            reason: Some(reason.name().to_owned()),
            color,
            selection: tried.map(selection),
            ..nothing
        },
        Way::Forward {
            why,
            color,
            from,
            to,
            selection: chosen,
        } => ExplainedWay {
            outcome: Outcome::Forward,
            why: Some(wire_why(why)),
            color: Some(color),
            from: Some(from),
            to: Some(to),
            selection: chosen.map(selection),
            ..nothing
        },
    }
}

const fn wire_why(why: Why) -> WireWhy {
    match why {
        Why::Pinned => WireWhy::Pinned,
        Why::Active => WireWhy::Active,
        Why::Base => WireWhy::Base,
        Why::Preview => WireWhy::Preview,
        Why::Repinned => WireWhy::Repinned,
    }
}

fn selection(selection: Selection) -> ExplainedSelection {
    let tried = |it: Tried| TriedBackend {
        backend: it.backend,
        free: it.free,
        ejected: it.ejected,
    };
    ExplainedSelection {
        hash: format!("{:016x}", selection.hash),
        slot: selection.slot,
        slots: selection.slots,
        tried: selection.tried.into_iter().map(tried).collect(),
    }
}
