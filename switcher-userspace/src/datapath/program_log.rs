//! The program's rare warnings (aya-log), on their way into the agent's log.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use super::error::{Attempt as _, DataPathError};

/// The pinned log ring: it also holds what the program wrote while no agent ran.
pub struct ProgramLog {
    logger: EbpfLogger<&'static dyn log::Log>,
}

impl ProgramLog {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, DataPathError> {
        let logger = EbpfLogger::init(ebpf).attempt("opening the program's log")?;
        Ok(Self { logger })
    }

    /// Writes warnings into the log as they come; returns only on an error.
    pub async fn follow(self) -> io::Result<()> {
        // SAFETY: the logger owns its ring buffer's descriptor, which stays open and the same until
        // the logger is dropped, together with the registration.
        let mut log = unsafe { AsyncFd::register(self.logger) }.map_err(io::Error::from)?;
        loop {
            let mut ready = log.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
