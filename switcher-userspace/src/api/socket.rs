//! The API's socket file: made, guarded against a second agent, removed.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    time::timeout,
};

use super::types::{ApiError, ErrorCode};

/// Who may connect is decided by the file's owner and group.
const MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o755;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;
/// A live agent accepts at once, or its backlog is full; either way connecting does not take long.
const PROBE: Duration = Duration::from_secs(1);

/// A bound socket: clients can connect and wait until [`super::server::serve`] answers them. The
/// file is removed on drop if it is still this socket's.
#[derive(Debug)]
pub struct ApiSocket {
    // Dropped first: while the listener is open, its inode's number is not given to another file.
    file: SocketFile,
    pub(super) listener: UnixListener,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl ApiSocket {
    /// Binds `path`: makes its directory when missing, replaces a file that no agent answers on.
    pub async fn bind(path: &Path) -> Result<Self, ApiError> {
        make_directory(path)?;
        clear_stale(path).await?;
        let failed = |error: io::Error| failure(path, "cannot bind", &error);
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(path).map_err(failed)?;
        // Identified at once, so that a failure below removes the file again.
        let file = SocketFile::identify(path).map_err(failed)?;
        // Before listen: nobody connects while the mode is still the process's default.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { file, listener })
    }

    /// Where it is bound.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl SocketFile {
    fn identify(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the API socket");
        }
    }
}

fn make_directory(path: &Path) -> Result<(), ApiError> {
    let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(parent)
        .map_err(|error| failure(path, "cannot make the directory of", &error))
}

async fn clear_stale(path: &Path) -> Result<(), ApiError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failure(path, "cannot look at", &error)),
    };
    if !found.file_type().is_socket() {
        return Err(ApiError::new(
            ErrorCode::Usage,
            format!(
                "cannot bind the API socket {}: there is a file that is no socket",
                path.display()
            ),
            "move the file away, or name another path in `socket` of [agent]",
        ));
    }
    if answers(path).await {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "cannot bind the API socket {}: another agent answers on it",
                path.display()
            ),
            "stop the other agent, or name another path in `socket` of [agent]",
        ));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(failure(path, "cannot remove the stale file of", &error))
        }
        _ => Ok(()),
    }
}

/// Only a refused connection proves that nobody listens; everything else may be a busy agent.
async fn answers(path: &Path) -> bool {
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) => !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound
        ),
        Ok(Ok(_)) | Err(_) => true,
    }
}

fn failure(path: &Path, attempted: &str, error: &io::Error) -> ApiError {
    let (code, next_step) = match error.kind() {
        ErrorKind::PermissionDenied => (ErrorCode::Permission, "run as root"),
        ErrorKind::InvalidInput => (
            ErrorCode::Usage,
            "name a shorter path in `socket` of [agent]",
        ),
        ErrorKind::AddrInUse => (
            ErrorCode::Conflict,
            "see which other agent starts on this socket",
        ),
        _ => (ErrorCode::Internal, "check the path in `socket` of [agent]"),
    };
    ApiError::new(
        code,
        format!("{attempted} the API socket {}: {error}", path.display()),
        next_step,
    )
}
