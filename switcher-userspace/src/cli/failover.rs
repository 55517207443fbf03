//! `switcher failover enable`, `disable`, `status` and `drill`

use clap::{Args, Subcommand};
use serde::Serialize;
use switcher_common::service::Color;

use super::{
    Console,
    answer::Answer,
    change::{TermsArgs, Words, body, send},
    drill,
};
use crate::{
    api::{
        client::Client,
        failover::{FailoverAction, FailoverOutlook, FailoverStatus, SwitchedOffBy},
        requests::{DisableFailoverRequest, EnableFailoverRequest},
        types::{ApiError, ErrorCode, ServiceStatus},
    },
    duration::Span,
};

/// Arguments of `switcher failover`.
#[derive(Debug, Args)]
pub(super) struct FailoverArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Let the agent change the active color by itself
    Enable(SwitchArgs),
    /// Let the agent change no active color by itself, also after its restart; an alarm tells what is due
    Disable(SwitchArgs),
    /// Show what automated failover would do now, and what forbids it until when
    Status {
        /// The service
        service: String,
    },
    /// Fail over as if the active color had failed, show how that went, and undo it
    Drill(DrillArgs),
}

#[derive(Debug, Args)]
struct SwitchArgs {
    /// Services that are switched
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,

    #[command(flatten)]
    terms: TermsArgs,
}

/// Arguments of `switcher failover drill`.
#[derive(Debug, Args)]
pub(super) struct DrillArgs {
    /// The service
    pub(super) service: String,

    /// Leave the standby active instead of undoing the failover
    #[arg(long)]
    pub(super) stay: bool,

    /// The failover is undone when its drain has ended, and after this time at the latest
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(super) timeout: Span,

    #[command(flatten)]
    pub(super) terms: TermsArgs,
}

#[derive(Serialize)]
struct Shown {
    service: String,
    active: Color,
    failover: Option<FailoverStatus>,
}

pub(super) async fn run(args: &FailoverArgs, client: &Client, console: &mut Console<'_>) -> Answer {
    match &args.verb {
        Verb::Enable(args) => {
            let words = Words {
                done: "automated failover is on",
                would: "switch automated failover on",
            };
            let body = body!(EnableFailoverRequest { args.services, args.terms });
            send(&body, words, client).await
        }
        Verb::Disable(args) => {
            let words = Words {
                done: "automated failover is off",
                would: "switch automated failover off",
            };
            let body = body!(DisableFailoverRequest { args.services, args.terms });
            send(&body, words, client).await
        }
        Verb::Status { service } => match status_of(service, client).await {
            Ok(found) => {
                let text = describe(&found);
                let shown = Shown {
                    service: found.name,
                    active: found.active,
                    failover: found.failover,
                };
                Answer::new(&shown, text)
            }
            Err(error) => error.into(),
        },
        Verb::Drill(args) => drill::run(args, client, console).await,
    }
}

async fn status_of(service: &str, client: &Client) -> Result<ServiceStatus, ApiError> {
    let services = client.status().await?.services.into_iter();
    let mut named = services.filter(|it| it.name == service);
    named.next().ok_or_else(|| {
        ApiError::new(
            ErrorCode::NotFound,
            format!("there is no service {service}"),
            "`switcher status` lists the services",
        )
    })
}

fn describe(service: &ServiceStatus) -> String {
    let name = &service.name;
    let Some(failover) = &service.failover else {
        return format!(
            "{name}: no automated failover: the configuration has no [service.failover]"
        );
    };
    let mut lines: Vec<String> = alarm(service).into_iter().collect();
    lines.push(format!(
        "{name}: {} is active, automated failover is {}",
        service.active.name(),
        switch(failover)
    ));
    lines.push(format!("  now: {}", outlook(&failover.now, service)));
    lines.push(format!(
        "  if {} failed now: {}",
        service.active.name(),
        outlook(&failover.if_active_failed, service)
    ));
    let hold_down = failover.hold_down_until_at.as_ref();
    lines.extend(hold_down.map(|until| format!("  hold-down until {until}")));
    lines.push(format!(
        "  automated changes left within this hour: {}",
        failover.flips_left
    ));
    lines.extend(failover.drill.as_ref().map(|drill| {
        format!(
            "  a drill goes on: {} becomes active again when the drain has ended, at {} at the latest",
            drill.back_to.name(),
            drill.until_at
        )
    }));
    lines.join("\n")
}

/// The alarm of a service, in a line.
pub(super) fn alarm(service: &ServiceStatus) -> Option<String> {
    let alarm = service.failover.as_ref()?.alarm.as_ref()?;
    Some(format!(
        "ALARM: {}: {}, since {}",
        service.name, alarm.message, alarm.since_at
    ))
}

/// `on`, or who has switched it off.
pub(super) fn switch(failover: &FailoverStatus) -> &'static str {
    match failover.switched_off_by {
        None => "on",
        Some(SwitchedOffBy::Operator) => "off (operator)",
        Some(SwitchedOffBy::Configuration) => "off (configuration)",
    }
}

fn outlook(outlook: &FailoverOutlook, service: &ServiceStatus) -> String {
    let (active, standby) = (service.active.name(), service.standby.name());
    match outlook.action {
        FailoverAction::FailOver => format!("{standby} would become active"),
        FailoverAction::Revert => {
            format!("the unconfirmed flip would be taken back, {standby} would become active")
        }
        FailoverAction::EndSplit => format!("the share of {standby} would end"),
        FailoverAction::Stay => {
            let why = outlook
                .why
                .map_or_else(String::new, |why| format!(": {why}"));
            let until = outlook.until_at.as_ref();
            let until = until.map_or_else(String::new, |until| format!(", until {until}"));
            format!("{active} stays active{why}{until}")
        }
    }
}
