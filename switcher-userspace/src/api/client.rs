//! The typed client of the API.

mod lines;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

pub use self::watch::{FlowList, StatusWatch, TraceWatch};
use super::{
    explain::{ExplainQuestion, Explanation},
    flows::FlowsRequest,
    history::{HistoryQuery, HistoryReply},
    preview::{PreviewQuery, PreviewReply},
    requests::{ApplyRequest, Body},
    trace::TraceRequest,
    types::{
        ApiError, ChangeFailure, ChangeReply, DrainReply, DrainStatus, ErrorCode, Failure,
        StatusReply, VersionReply,
    },
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than the agent's own deadline, so that its answer comes first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read: a status of the most services and backends fits several times.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Calls the agent that listens on one socket; a connection per call.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    answer_timeout: Duration,
}

impl Client {
    /// A client of the agent on `socket`. Nothing is connected yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            answer_timeout: ANSWER_TIMEOUT,
        }
    }

    /// The same client, waiting at most `limit` for an answer.
    #[must_use]
    pub fn with_answer_timeout(mut self, limit: Duration) -> Self {
        self.answer_timeout = limit;
        self
    }

    /// The socket that it calls.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The agent's version.
    pub async fn version(&self) -> Result<VersionReply, ApiError> {
        self.get("/v1/version").await
    }

    /// Everything that the agent knows.
    pub async fn status(&self) -> Result<StatusReply, ApiError> {
        self.get("/v1/status").await
    }

    /// Where packets of a 5-tuple would go now.
    pub async fn explain(&self, question: &ExplainQuestion) -> Result<Explanation, ApiError> {
        question.check()?;
        let path = format!(
            "/v1/explain?protocol={}&client={}&vip={}",
            question.protocol.name(),
            escape(&question.client.to_string()),
            escape(&question.vip.to_string())
        );
        self.get(&path).await
    }

    /// Where the standby of a service can be tried, and whether it could become active.
    pub async fn preview(&self, question: &PreviewQuery) -> Result<PreviewReply, ApiError> {
        self.get(&format!(
            "/v1/preview?service={}",
            escape(&question.service)
        ))
        .await
    }

    /// What has changed, the newest first.
    pub async fn history(&self, question: &HistoryQuery) -> Result<HistoryReply, ApiError> {
        let service = question.service.as_deref();
        let service = service.map(|name| format!("service={}", escape(name)));
        let limit = question.limit.map(|limit| format!("limit={limit}"));
        let query: Vec<String> = service.into_iter().chain(limit).collect();
        self.get(&format!("/v1/history?{}", query.join("&"))).await
    }

    /// The drain of `service` that runs, or the newest one that ended.
    pub async fn drain(&self, service: &str) -> Result<Option<DrainStatus>, ApiError> {
        let path = format!("/v1/drain/{}", escape(service));
        self.get::<DrainReply>(&path).await.map(|reply| reply.drain)
    }

    /// Follows the status of `services`, or of all.
    pub async fn watch_status(&self, services: Option<&[String]>) -> Result<StatusWatch, ApiError> {
        let query = services.map(|names| format!("?services={}", escape(&names.join(","))));
        let path = format!("/v1/status/watch{}", query.unwrap_or_default());
        let body = self.stream(&path).await?;
        Ok(StatusWatch::new(body, &self.socket))
    }

    /// Follows the packets that `request` asks for.
    pub async fn trace(&self, request: &TraceRequest) -> Result<TraceWatch, ApiError> {
        request.check()?;
        let client = request.client.map(|it| ("client", it.to_string()));
        let service = request.service.clone().map(|it| ("service", it));
        let pairs = client.into_iter().chain(service);
        let query: Vec<String> = pairs
            .map(|(name, value)| format!("{name}={}", escape(&value)))
            .collect();
        let path = format!("/v1/trace?{}", query.join("&"));
        let body = self.stream(&path).await?;
        Ok(TraceWatch::new(body, &self.socket))
    }

    /// The flows of `service` that `request` asks for.
    pub async fn flows(&self, service: &str, request: &FlowsRequest) -> Result<FlowList, ApiError> {
        let color = request.color.map(|color| format!("color={}", color.name()));
        let limit = request.limit.map(|limit| format!("limit={limit}"));
        let query: Vec<String> = color.into_iter().chain(limit).collect();
        let path = format!("/v1/flows/{}?{}", escape(service), query.join("&"));
        let body = self.stream(&path).await?;
        Ok(FlowList::new(body, &self.socket))
    }

    /// The body of an answer that goes on.
    async fn stream(&self, path: &str) -> Result<Incoming, ApiError> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        if response.status().is_success() {
            Ok(response.into_body())
        } else {
            let body = self.read(response).await?;
            Err(self.failure(&body))
        }
    }

    /// Changes. On failure the answer says whether anything changed, as far as that is known.
    pub async fn change<B: Body>(&self, request: &B) -> Result<ChangeReply, ChangeFailure> {
        self.post(B::VERB, request).await
    }

    /// Makes another configuration the running one.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<ChangeReply, ChangeFailure> {
        self.post(ApplyRequest::VERB, request).await
    }

    async fn post(
        &self,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<ChangeReply, ChangeFailure> {
        let body = serde_json::to_vec(request).map_err(|error| {
            ApiError::new(
                ErrorCode::Internal,
                format!("cannot write the request of the {verb}: {error}"),
                "report this defect",
            )
        })?;
        let path = format!("/v1/{verb}");
        let connection = self.connect().await?;
        // From here on the agent may have read the request although no answer comes.
        let unknown = |error| ChangeFailure {
            changed: None,
            ..ChangeFailure::from(error)
        };
        let sent = self.exchange(connection, Method::POST, &path, body.into());
        let response = sent.await.map_err(unknown)?;
        let succeeded = response.status().is_success();
        let body = self.read(response).await.map_err(unknown)?;
        if succeeded {
            self.decode(&body).map_err(unknown)
        } else {
            Err(self.decode(&body).map_err(unknown)?)
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        let succeeded = response.status().is_success();
        let body = self.read(response).await?;
        if succeeded {
            self.decode(&body)
        } else {
            Err(self.failure(&body))
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ApiError> {
        let connection = self.connect().await?;
        self.exchange(connection, method, path, body).await
    }

    async fn connect(&self) -> Result<UnixStream, ApiError> {
        match timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket)).await {
            Ok(connected) => connected.map_err(|error| no_connection(&self.socket, &error)),
            Err(_) => Err(no_connection(&self.socket, &io::ErrorKind::TimedOut.into())),
        }
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ApiError> {
        let broken = |error: hyper::Error| broken_off(&self.socket, &error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Drives the connection until its answer is read; its errors reach the answer's reader.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "switcher")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| {
                ApiError::new(
                    ErrorCode::Usage,
                    format!("cannot ask the agent for {path}: {error}"),
                    "write the service's name as `switcher status` shows it",
                )
            })?;
        self.in_time(sender.send_request(request))
            .await?
            .map_err(broken)
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, ApiError> {
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        self.in_time(body.collect())
            .await?
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| broken_off(&self.socket, error.as_ref()))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        timeout(self.answer_timeout, work).await.map_err(|_| {
            ApiError::new(
                ErrorCode::Timeout,
                format!(
                    "the agent on {} did not answer within {:?}",
                    self.socket.display(),
                    self.answer_timeout
                ),
                "see whether it still works: `switcher status`, and its log",
            )
        })
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ApiError> {
        serde_json::from_slice(body).map_err(|error| {
            ApiError::new(
                ErrorCode::DataPath,
                format!(
                    "the answer of the agent on {} is not understood: {error}",
                    self.socket.display()
                ),
                "compare the versions of agent and CLI: `switcher --version`",
            )
        })
    }

    fn failure(&self, body: &[u8]) -> ApiError {
        self.decode::<Failure>(body)
            .map_or_else(|not_understood| not_understood, |failure| failure.error)
    }
}

/// Escapes everything but RFC 3986's unreserved characters, so that any text stays one segment.
fn escape(segment: &str) -> String {
    let escaped = segment.bytes().map(|byte| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

fn no_connection(socket: &Path, error: &io::Error) -> ApiError {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => ApiError::new(
            ErrorCode::Permission,
            format!("this user may not connect to the agent on {socket}"),
            "run as root, or as a member of the socket's group",
        ),
        io::ErrorKind::InvalidInput => ApiError::new(
            ErrorCode::Usage,
            format!("{socket} cannot be a socket's path: {error}"),
            "name a shorter path with --socket or SWITCHER_SOCKET",
        ),
        _ => ApiError::new(
            ErrorCode::Unreachable,
            format!("no agent answers on {socket}: {error}"),
            "start it with `switcher agent --config FILE`, or name its socket with --socket or \
             SWITCHER_SOCKET",
        ),
    }
}

fn broken_off(socket: &Path, error: &dyn std::error::Error) -> ApiError {
    ApiError::new(
        ErrorCode::Unreachable,
        format!(
            "the agent on {} broke off before its answer was complete: {error}",
            socket.display()
        ),
        "see whether it still runs: `switcher status`, and its log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hinders_a_connection_decides_the_code() {
        for (kind, code) in [
            (io::ErrorKind::NotFound, ErrorCode::Unreachable),
            (io::ErrorKind::ConnectionRefused, ErrorCode::Unreachable),
            (io::ErrorKind::TimedOut, ErrorCode::Unreachable),
            (io::ErrorKind::PermissionDenied, ErrorCode::Permission),
            (io::ErrorKind::InvalidInput, ErrorCode::Usage),
        ] {
            let error = no_connection(Path::new("/run/a.sock"), &kind.into());
            assert_eq!(error.code, code, "{kind}");
            assert!(error.message.contains("/run/a.sock"));
        }
    }

    #[test]
    fn any_text_is_one_path_segment() {
        for (text, segment) in [
            ("web-1.a_b~", "web-1.a_b~"),
            ("a/b", "a%2Fb"),
            ("ü ?#", "%C3%BC%20%3F%23"),
        ] {
            assert_eq!(escape(text), segment);
        }
    }
}
