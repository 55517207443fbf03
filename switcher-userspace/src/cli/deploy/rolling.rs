//! A rolling release: both colors are updated, one after the other, and share the clients afterwards.

use super::{
    standby::{self, Standby},
    steps::Steps,
};
use crate::{
    api::{
        requests::{AbortRequest, SplitRequest},
        types::{ApiError, ServiceStatus},
    },
    duration::Span,
};

/// Two live copies share the clients alike.
const DEFAULT_SPLIT_PERCENT: u8 = 50;

pub(super) async fn carry_out(steps: &mut Steps<'_, '_, '_>) -> Result<(), ApiError> {
    let service = steps.look(standby::is_decided).await?;
    let percent = steps.args.split.unwrap_or(match service.split_percent {
        0 => DEFAULT_SPLIT_PERCENT,
        percent => percent,
    });
    take_clients_away(steps, &service).await?;
    // Draining takes its time: somebody may have flipped meanwhile.
    let first = Standby::of(&steps.look(standby::may_begin).await?);
    standby::refuse_other(&first, service.standby)?;
    steps.update(&first).await?;
    steps.flip(&first).await?;
    steps.drain().await;
    second_half(steps, &first, percent)
        .await
        .map_err(|error| half_way(&error, &first))
}

/// Gives all clients to the active color, and waits until the standby has served its last one.
async fn take_clients_away(
    steps: &mut Steps<'_, '_, '_>,
    service: &ServiceStatus,
) -> Result<(), ApiError> {
    if service.split_percent > 0 {
        let request = AbortRequest {
            services: vec![service.name.clone()],
            expect_active: Some(service.active),
            reason: Some(steps.args.reason()),
            drain_timeout_ms: steps.args.drain_timeout.map(Span::as_millis),
            at_deadline: steps.args.at_deadline,
            ..AbortRequest::default()
        };
        steps.change("abort", &request).await?;
        steps.share_taken = Some(service.split_percent);
    }
    steps.drain().await;
    Ok(())
}

/// The color that was active before is the standby now: updates it, and shares the clients.
async fn second_half(
    steps: &mut Steps<'_, '_, '_>,
    first: &Standby,
    percent: u8,
) -> Result<(), ApiError> {
    let service = steps.look(standby::may_begin).await?;
    let second = Standby::of(&service);
    // Somebody else may have flipped: the color that was just updated must not be updated while it serves.
    standby::refuse_other(&second, first.color.other())?;
    steps.update(&second).await?;
    let request = SplitRequest {
        services: vec![service.name],
        expect_active: Some(first.color),
        reason: Some(steps.args.reason()),
        standby_percent: percent,
        ..SplitRequest::default()
    };
    steps.change("split", &request).await?;
    steps.share_taken = None;
    Ok(())
}

/// `error` after the first color was updated and flipped to.
fn half_way(error: &ApiError, first: &Standby) -> ApiError {
    let (first, second) = (first.color.name(), first.color.other().name());
    ApiError::new(
        error.code,
        format!(
            "{}; {first} is updated and active, {second} has no share of the clients",
            error.message
        ),
        format!("{}; a repetition begins with {second}", error.next_step),
    )
}
