//! The socket's file: mode, stale files, a second agent, removal.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    time::Duration,
};

use switcher_userspace::api::{client::Client, server::ApiSocket, types::ErrorCode};
use tempfile::TempDir;

use crate::{
    fake::{Served, running, unused_socket},
    http::request,
};

#[tokio::test]
async fn the_socket_is_for_owner_and_group_in_a_directory_that_is_made() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("made/here/switcher.sock");
    let socket = ApiSocket::bind(&path).await.unwrap();
    assert_eq!(socket.path(), path);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o660);
    assert_eq!(mode(path.parent().unwrap()), 0o755);
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = unused_socket(directory.path());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(ApiSocket::bind(&path).await.is_ok());
}

#[tokio::test]
async fn a_socket_that_an_agent_answers_on_is_left_alone() {
    let served = Served::start();
    let error = ApiSocket::bind(&served.socket()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("another agent answers"), "{error}");
    assert!(Client::new(&served.socket()).version().await.is_ok());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "data").unwrap();
    assert_eq!(
        ApiSocket::bind(&path).await.unwrap_err().code,
        ErrorCode::Usage
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn a_path_that_is_too_long_is_a_usage_error() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("x".repeat(120));
    assert_eq!(
        ApiSocket::bind(&path).await.unwrap_err().code,
        ErrorCode::Usage
    );
    let error = Client::new(&path).version().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Usage);
}

#[tokio::test]
async fn a_socket_that_is_no_longer_ours_stays() {
    let directory = TempDir::new().unwrap();
    let path = unused_socket(directory.path());
    let first = ApiSocket::bind(&path).await.unwrap();
    fs::remove_file(&path).unwrap();
    let _second = UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

#[tokio::test]
async fn without_an_agent_the_client_says_how_to_start_one() {
    let directory = TempDir::new().unwrap();
    let path = unused_socket(directory.path());
    let missing = Client::new(&path).status().await.unwrap_err();
    drop(UnixListener::bind(&path).unwrap());
    let stale = Client::new(&path).status().await.unwrap_err();
    for error in [missing, stale] {
        assert_eq!(error.code, ErrorCode::Unreachable);
        assert!(
            error.next_step.contains("switcher agent --config"),
            "{error:?}"
        );
    }
}

#[test]
fn the_server_stops_in_time_beside_a_watcher_and_an_idle_client() {
    let mut served = Served::start();
    let socket = served.socket();
    served.fake.set_drain(running(None));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = Client::new(&socket);
    let mut watch = runtime.block_on(client.watch_status(None)).unwrap();
    runtime.block_on(watch.next()).unwrap();
    let _idle = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert_eq!(request(&socket, "GET", "/v1/version", b"").0, 200);
    let began = std::time::Instant::now();
    served.stop();
    let took = began.elapsed();
    // Both are told to end; being cut off would take longer.
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(!socket.exists());
}
