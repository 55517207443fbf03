//! The issuers whose certificates are believed: those of a file, or the system's.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::Path,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::config::{CheckKind, Config};

/// The issuers in the PEM file `file`; an error says what was found.
pub(crate) fn of_file(file: &Path) -> Result<RootCertStore, String> {
    let shown = file.display();
    let unreadable = |error| format!("cannot read certificates in {shown}: {error}");
    let certificates = CertificateDer::pem_file_iter(file).map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(unreadable)?;
        roots
            .add(certificate)
            .map_err(|error| format!("a certificate in {shown} cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{shown} has no certificate"));
    }
    Ok(roots)
}

/// The issuers that the system trusts; an error says what was found.
pub(crate) fn of_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A few of a distribution's own are of a kind that nobody uses any more.
    let (_, _) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        return Err(format!(
            "the system trusts no issuer ({}); install its certificates (ca-certificates), or set ca_file",
            why.as_deref().unwrap_or("none was found")
        ));
    }
    Ok(roots)
}

/// Services of `config` whose checks would fail for want of issuers, and why.
pub(crate) fn missing(config: &Config) -> Vec<(&str, String)> {
    let mut looked = BTreeMap::new();
    let mut missing = Vec::new();
    for service in &config.services {
        let Some(check) = &service.check else {
            continue;
        };
        if check.kind != CheckKind::Https || !check.verifies() {
            continue;
        }
        let file = check.ca_file.as_deref();
        let why = match looked.entry(file) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let found = file.map_or_else(of_system, of_file);
                new.insert(found.err())
            }
        };
        missing.extend(why.clone().map(|why| (service.name.as_str(), why)));
    }
    missing
}
