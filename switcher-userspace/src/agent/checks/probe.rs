//! One check of one backend, over the same network path as the packets that are forwarded to it.

use std::{io, net::SocketAddr, time::Duration};

use http_body_util::Empty;
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::tls::Tls;
use crate::config::{CheckConfig, CheckKind};

/// How the agent calls itself.
const AGENT: &str = concat!("switcher/", env!("CARGO_PKG_VERSION"), " (check)");

/// Why a check has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// What was found, for operators.
    pub(super) found: String,
    /// What it tells of whether the backend lives.
    pub(super) sign: Sign,
}

/// What a failed check tells of whether the backend lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It may: it takes connections, or nothing is known of that.
    Alive,
    /// Nobody takes connections where it serves.
    Refuses,
    /// Nothing has come back.
    Silent,
}

/// Asks `backend`, which serves on that address and port.
pub(super) async fn probe(
    check: &CheckConfig,
    tls: &Tls,
    backend: SocketAddr,
) -> Result<(), Failure> {
    let limit = check.timeout.into();
    let deadline = Instant::now() + limit;
    let asked = SocketAddr::new(backend.ip(), check.port.unwrap_or(backend.port()));
    let connected = timeout_at(deadline, connect(asked)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.map_err(|error| Failure {
        found: match error.kind() {
            io::ErrorKind::TimedOut => late(limit),
            _ => told(asked, &error),
        },
        sign: sign_of(&error, asked == backend),
    })?;
    let answered = match check.kind {
        CheckKind::Tcp => return Ok(()),
        CheckKind::Http => timeout_at(deadline, get(check, asked, stream)).await,
        CheckKind::Https => {
            let ask = async { get(check, asked, tls.begin(check, asked, stream).await?).await };
            timeout_at(deadline, ask).await
        }
    };
    let answered = answered.unwrap_or_else(|_| Err(late(limit)));
    answered.map_err(|found| Failure {
        found,
        sign: Sign::Alive,
    })
}

/// What an attempt to connect to a backend tells of it; `is_served`: it was where it serves. An error of the node
/// itself, such as too few descriptors or no route, tells nothing.
fn sign_of(error: &io::Error, is_served: bool) -> Sign {
    match error.kind() {
        _ if !is_served => Sign::Alive,
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Sign::Refuses,
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => Sign::Silent,
        _ => Sign::Alive,
    }
}

fn late(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

/// Connects; the connection ends with a RST, so that a check every 200 ms leaves no ports in TIME-WAIT.
async fn connect(asked: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(asked).await?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}

fn told(asked: SocketAddr, error: &io::Error) -> String {
    format!("no connection to {asked}: {error}")
}

async fn get(
    check: &CheckConfig,
    asked: SocketAddr,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(), String> {
    let broken = |error: hyper::Error| format!("no HTTP answer of {asked}: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let host = check.host.clone().unwrap_or_else(|| asked.to_string());
    let request = Request::get(check.path())
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("cannot ask {asked}: {error}"))?;
    // Ends with this function: the body is of no interest.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status().as_u16();
    if check.expects(status) {
        Ok(())
    } else {
        Err(format!(
            "{asked} answered {status}, expected {}",
            wanted(check)
        ))
    }
}

fn wanted(check: &CheckConfig) -> String {
    check
        .expect_status
        .map_or_else(|| "200 to 399".to_owned(), |status| status.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::duration::Span;

    async fn probe_plain(check: &CheckConfig, backend: SocketAddr) -> Result<(), Failure> {
        probe(check, &Tls::default(), backend).await
    }

    fn check(kind: CheckKind) -> CheckConfig {
        CheckConfig {
            kind,
            timeout: Span::from_secs(5),
            ..CheckConfig::default()
        }
    }

    /// A server that answers each request with `answer`, and the requests that it gets.
    async fn server(answer: &'static str) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("[::1]:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (requests, received) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let len = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..len]).into_owned();
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = requests.send(text).await;
            }
        });
        (address, received)
    }

    #[tokio::test]
    async fn a_tcp_check_passes_where_a_connection_is_accepted() {
        let (address, _requests) = server("").await;
        assert_eq!(probe_plain(&check(CheckKind::Tcp), address).await, Ok(()));
    }

    #[tokio::test]
    async fn a_tcp_check_fails_where_nobody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let failed = probe_plain(&check(CheckKind::Tcp), address).await;
        let Failure { found: why, sign } = failed.expect_err("nobody listens");
        assert_eq!(sign, Sign::Refuses, "{why}");
        assert!(
            why.contains(&address.to_string()) && why.contains("refused"),
            "{why}"
        );
    }

    #[tokio::test]
    async fn a_check_of_another_port_does_not_tell_that_the_backend_is_dead() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut check = check(CheckKind::Tcp);
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        check.port = Some(closed.local_addr().expect("an address").port());
        drop(closed);
        let backend = listener.local_addr().expect("an address");
        let failure = probe_plain(&check, backend)
            .await
            .expect_err("nobody listens");
        assert_eq!(failure.sign, Sign::Alive, "{failure:?}");
    }

    #[tokio::test]
    async fn an_http_check_asks_for_its_path_and_host_and_judges_the_status() {
        let (address, mut requests) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        let mut http = CheckConfig {
            path: Some("/health?deep=1".to_owned()),
            host: Some("web.example".to_owned()),
            ..check(CheckKind::Http)
        };
        assert_eq!(probe_plain(&http, address).await, Ok(()));
        let request = requests.recv().await.expect("a request").to_lowercase();
        assert!(
            request.starts_with("get /health?deep=1 http/1.1\r\n")
                && request.contains("\r\nhost: web.example\r\n"),
            "{request}"
        );
        http.expect_status = Some(200);
        let why = probe_plain(&http, address)
            .await
            .expect_err("another status");
        assert_eq!(why.sign, Sign::Alive);
        let why = why.found;
        assert!(why.contains("answered 204, expected 200"), "{why}");
    }

    #[tokio::test]
    async fn an_http_check_fails_on_errors_and_on_what_is_no_http() {
        for (answer, expected) in [
            (
                "HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n",
                "answered 503",
            ),
            ("SSH-2.0-OpenSSH_9\r\n", "no HTTP answer"),
            ("", "no HTTP answer"),
        ] {
            let (address, _requests) = server(answer).await;
            let why = probe_plain(&check(CheckKind::Http), address).await;
            let Failure { found: why, sign } = why.expect_err(answer);
            assert_eq!(sign, Sign::Alive, "{why}");
            assert!(why.contains(expected), "{why}");
        }
    }

    #[tokio::test]
    async fn a_check_that_gets_no_answer_fails_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut http = check(CheckKind::Http);
        http.timeout = Span::from_millis(20);
        let why = probe_plain(&http, address)
            .await
            .expect_err("nobody answers");
        assert_eq!(why.sign, Sign::Alive, "it has taken the connection");
        let why = why.found;
        assert!(why.contains("no answer within 20ms"), "{why}");
    }
}
