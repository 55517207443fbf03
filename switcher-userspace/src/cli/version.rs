//! `switcher --version`

use std::time::Duration;

use serde::Serialize;
use switcher_common::LAYOUT_VERSION;

use super::answer::Answer;
use crate::api::{
    client::Client,
    types::{ApiError, ErrorCode, VersionReply},
};

/// Nobody waits long for a version.
const AGENT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Versions {
    cli: String,
    layout: u32,
    /// `null`: it did not tell.
    agent: Option<VersionReply>,
    /// Why it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_problem: Option<ApiError>,
}

pub(super) async fn run(client: &Client) -> Answer {
    let client = client.clone().with_answer_timeout(AGENT_TIMEOUT);
    let (agent, agent_problem) = match client.version().await {
        Ok(reply) => (Some(reply), None),
        Err(error) => (None, Some(error)),
    };
    let versions = Versions {
        cli: env!("CARGO_PKG_VERSION").to_owned(),
        layout: LAYOUT_VERSION,
        agent,
        agent_problem,
    };
    let text = describe(&versions);
    Answer::new(&versions, text)
}

fn describe(versions: &Versions) -> String {
    let agent = match (&versions.agent, &versions.agent_problem) {
        (Some(agent), _) => format!("{} (layout {})", agent.agent, agent.layout),
        (None, Some(problem)) if problem.code != ErrorCode::Unreachable => {
            format!("unknown: {}", problem.message)
        }
        (None, _) => "not running".to_owned(),
    };
    format!(
        "switcher {} (layout {})\nagent: {agent}",
        versions.cli, versions.layout
    )
}
