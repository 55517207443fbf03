//! Requests without the typed client, as `curl --unix-socket` sends them.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::Value;

/// Sends one request; status and body.
pub(crate) fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has refused the request may have closed already.
    let _ = stream.write_all(body);
    answer(&mut stream)
}

/// Reads an answer up to the connection's end.
fn answer(stream: &mut UnixStream) -> (u16, Value) {
    let mut text = Vec::new();
    // What came before a reset is what counts.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    (
        status.parse().unwrap(),
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body:?}")),
    )
}
