//! TLS to backends that are checked: whom it believes, and what a failed handshake says.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{config::CheckConfig, issuers};

/// A new certificate of an issuer is taken in after so long at the latest, once checks fail without it.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What believes backends; shared by all checks, so that issuers are read once.
#[derive(Debug)]
pub(super) struct Tls {
    known: Mutex<BTreeMap<Terms, (Instant, Arc<ClientConfig>)>>,
    read_again_after: Duration,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            read_again_after: READ_AGAIN_AFTER,
        }
    }
}

/// What makes one set of issuers another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Terms {
    /// Those of this file, or the system's.
    Issuers(Option<PathBuf>),
    /// Anyone.
    Unverified,
}

impl Terms {
    fn of(check: &CheckConfig) -> Self {
        if check.verifies() {
            Self::Issuers(check.ca_file.clone())
        } else {
            Self::Unverified
        }
    }
}

impl Tls {
    /// Speaks TLS over `stream` with the backend at `asked`.
    pub(super) async fn begin(
        &self,
        check: &CheckConfig,
        asked: SocketAddr,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let terms = Terms::of(check);
        let config = self.config(&terms)?;
        let name = name(check, asked)?;
        let begun = TlsConnector::from(config).connect(name, stream).await;
        begun.map_err(|error| {
            if is_about_certificate(&error) {
                self.read_again(&terms);
            }
            format!("no TLS with {asked}: {error}")
        })
    }

    fn config(&self, terms: &Terms) -> Result<Arc<ClientConfig>, String> {
        // Nothing can panic half-way through a change of it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = known.get(terms) {
            return Ok(config.clone());
        }
        let config = Arc::new(client(terms)?);
        known.insert(terms.clone(), (Instant::now(), config.clone()));
        Ok(config)
    }

    /// Issuers are replaced in their file from time to time.
    fn read_again(&self, terms: &Terms) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let read = known.get(terms).map(|(read, _)| *read);
        if read.is_some_and(|read| read.elapsed() >= self.read_again_after) {
            known.remove(terms);
        }
    }
}

/// The name that the certificate must have.
fn name(check: &CheckConfig, asked: SocketAddr) -> Result<ServerName<'static>, String> {
    let Some(host) = check.host_name() else {
        return Ok(asked.ip().into());
    };
    ServerName::try_from(host.to_owned())
        .map_err(|error| format!("host {host:?} cannot be asked for by TLS: {error}"))
}

fn client(terms: &Terms) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no version of TLS can be spoken: {error}"))?;
    let roots = match terms {
        Terms::Issuers(Some(file)) => Some(issuers::of_file(file)?),
        Terms::Issuers(None) => Some(issuers::of_system()?),
        Terms::Unverified => None,
    };
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider))),
    };
    let mut config = builder.with_no_client_auth();
    // A resumed session shows no certificate, so one that has expired would go unseen.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn is_about_certificate(error: &io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::InvalidCertificate(_)))
}

/// Believes every certificate (`verify = false`), but no forged signature of its owner.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
