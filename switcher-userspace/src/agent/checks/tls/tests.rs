//! HTTPS checks of real TLS servers with certificates that the test makes.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::{super::probe::Sign, *};
use crate::{agent::checks::probe::probe, config::CheckKind, duration::Span};

const NAME: &str = "web.example";
const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer() -> Issuer {
    issuer_called("the issuer")
}

fn issuer_called(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an issuer")
}

/// What a server was asked: the name by TLS, and the request.
struct Asked {
    name: Option<String>,
    request: String,
}

struct Server {
    address: SocketAddr,
    asked: mpsc::Receiver<Asked>,
}

/// A server with a certificate of `issuer` for `names` that ends with `year`, which answers with `answer`.
async fn server(issuer: &Issuer, names: &[&str], year: i32, answer: &'static str) -> Server {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(year, 1, 1);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (told, asked) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let connection: &ServerConnection = stream.get_ref().1;
            let name = connection.server_name().map(ToOwned::to_owned);
            let mut request = vec![0; 4_096];
            let len = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..len]).into_owned();
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = told.send(Asked { name, request }).await;
        }
    });
    Server { address, asked }
}

/// A check that believes what is in `ca_file` of `dir`.
fn check(dir: &Path) -> CheckConfig {
    CheckConfig {
        kind: CheckKind::Https,
        path: Some("/health".to_owned()),
        host: Some(NAME.to_owned()),
        ca_file: Some(dir.join("ca.pem")),
        timeout: Span::from_secs(30),
        ..CheckConfig::default()
    }
}

/// A directory with a file that has the certificate of `issuer`.
fn believing(issuer: &Issuer) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("written");
    dir
}

#[tokio::test]
async fn an_https_check_asks_by_its_host_and_judges_the_status() {
    let issuer = issuer();
    let dir = believing(&issuer);
    let tls = Tls::default();
    let mut fine = server(&issuer, &[NAME], 2_999, FINE).await;
    let mut check = CheckConfig {
        host: Some(format!("{NAME}:8443")),
        ..check(dir.path())
    };
    // More than once: what a first handshake has left must not replace the next.
    for _ in 0..3 {
        assert_eq!(probe(&check, &tls, fine.address).await, Ok(()));
        let asked = fine.asked.recv().await.expect("a request");
        assert_eq!(asked.name.as_deref(), Some(NAME));
        let request = asked.request.to_lowercase();
        assert!(
            request.starts_with("get /health http/1.1\r\n")
                && request.contains(&format!("\r\nhost: {NAME}:8443\r\n")),
            "{request}"
        );
    }
    check.expect_status = Some(204);
    let why = probe(&check, &tls, fine.address)
        .await
        .expect_err("another status");
    assert!(why.found.contains("answered 200, expected 204"), "{why:?}");
}

#[tokio::test]
async fn without_a_host_the_certificate_must_have_the_backends_address() {
    let issuer = issuer();
    let dir = believing(&issuer);
    let tls = Tls::default();
    let check = CheckConfig {
        host: None,
        ..check(dir.path())
    };
    let mut fine = server(&issuer, &["127.0.0.1"], 2_999, FINE).await;
    assert_eq!(probe(&check, &tls, fine.address).await, Ok(()));
    let asked = fine.asked.recv().await.expect("a request");
    assert_eq!(asked.name, None, "an address is no name");
    let other = server(&issuer, &["127.0.0.2"], 2_999, FINE).await;
    let why = probe(&check, &tls, other.address).await;
    let why = why.expect_err("another address");
    assert!(why.found.contains("not valid for name"), "{why:?}");
}

#[tokio::test]
async fn a_certificate_that_is_not_to_be_believed_fails_the_check_and_the_evidence_says_why() {
    let (known, stranger) = (issuer(), issuer_called("a stranger"));
    let dir = believing(&known);
    for (server, expected) in [
        (
            server(&known, &[NAME], 2_020, FINE).await,
            "certificate expired",
        ),
        (
            server(&known, &["other.example"], 2_999, FINE).await,
            "not valid for name",
        ),
        (
            server(&stranger, &[NAME], 2_999, FINE).await,
            "UnknownIssuer",
        ),
    ] {
        let mut check = check(dir.path());
        let tls = Tls::default();
        let why = probe(&check, &tls, server.address).await;
        let why = why.expect_err(expected);
        assert!(
            why.found.contains(expected) && why.found.contains(&server.address.to_string()),
            "{why:?}"
        );
        check.ca_file = None;
        check.verify = Some(false);
        assert_eq!(
            probe(&check, &tls, server.address).await,
            Ok(()),
            "{expected}, and nobody asks"
        );
    }
}

#[tokio::test]
async fn an_issuer_that_is_replaced_in_its_file_is_taken_in() {
    let (before, after) = (issuer(), issuer());
    let dir = believing(&before);
    let tls = Tls {
        read_again_after: Duration::ZERO,
        ..Tls::default()
    };
    let server = server(&after, &[NAME], 2_999, FINE).await;
    let check = check(dir.path());
    assert!(probe(&check, &tls, server.address).await.is_err());
    fs::write(dir.path().join("ca.pem"), after.pem()).expect("written");
    // What was read before the file was replaced fails once more at most.
    let first = probe(&check, &tls, server.address).await;
    let second = probe(&check, &tls, server.address).await;
    assert!(first.is_ok() || second.is_ok(), "{first:?} {second:?}");
    assert_eq!(probe(&check, &tls, server.address).await, Ok(()));
}

#[tokio::test]
async fn servers_that_speak_no_tls_or_nothing_fail_the_check_in_time() {
    let issuer = issuer();
    let dir = believing(&issuer);
    let tls = Tls::default();
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let mut check = check(dir.path());
    check.timeout = Span::from_millis(20);
    let why = probe(&check, &tls, address)
        .await
        .expect_err("nobody speaks");
    assert_eq!(why.sign, Sign::Alive, "it has taken the connection");
    assert!(why.found.contains("no answer within 20ms"), "{why:?}");
    check.timeout = Span::from_secs(30);
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = plain.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(FINE.as_bytes()).await;
            let _ = stream.read(&mut [0; 4_096]).await;
        }
    });
    let why = probe(&check, &tls, address).await.expect_err("plain HTTP");
    assert!(why.found.contains("no TLS with"), "{why:?}");
}

#[test]
fn a_file_without_certificates_is_no_set_of_issuers() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ca.pem");
    for (text, expected) in [
        (None, "No such file"),
        (Some("nothing"), "has no certificate"),
        (
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "cannot be used",
        ),
    ] {
        if let Some(text) = text {
            fs::write(&file, text).expect("written");
        }
        let why = issuers::of_file(&file).expect_err(expected);
        assert!(
            why.contains(expected) && why.contains(&file.display().to_string()),
            "{why}"
        );
    }
    fs::write(&file, issuer().pem()).expect("written");
    assert_eq!(issuers::of_file(&file).map(|roots| roots.len()), Ok(1));
}
