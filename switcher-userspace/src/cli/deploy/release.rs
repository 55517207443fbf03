//! A release: the standby is updated and becomes active.

use super::{
    standby::{self, Standby},
    steps::Steps,
};
use crate::api::types::ApiError;

pub(super) async fn carry_out(steps: &mut Steps<'_, '_, '_>) -> Result<(), ApiError> {
    let service = steps.look(standby::may_begin).await?;
    let standby = Standby::of(&service);
    steps.update(&standby).await?;
    steps.flip(&standby).await?;
    steps.drain().await;
    Ok(())
}
