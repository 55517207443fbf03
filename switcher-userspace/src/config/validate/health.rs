//! `[service.check]`: what can be asked, and how often.

use rustls::pki_types::ServerName;
use switcher_common::service::Protocol;

use super::{Findings, Place};
use crate::{
    config::{CheckConfig, CheckKind, ServiceConfig},
    duration::Span,
};

const SHORTEST: Span = Span::from_millis(10);
const LONGEST: Span = Span::from_secs(3_600);
const LONGEST_TIMEOUT: Span = Span::from_secs(60);
/// Failures or successes in a row.
const MOST_IN_A_ROW: u64 = 100;
const MAX_HEADER_BYTES: usize = 1_024;

pub(super) fn check(service: &ServiceConfig, place: &Place, findings: &mut Findings<'_>) {
    let Some(check) = &service.check else {
        return;
    };
    let place = place.table("check");
    findings.expect_span(&place, "interval", check.interval, SHORTEST, LONGEST);
    findings.expect_span(&place, "timeout", check.timeout, SHORTEST, LONGEST_TIMEOUT);
    findings.expect_count(&place, "fall", check.fall.into(), MOST_IN_A_ROW);
    findings.expect_count(&place, "rise", check.rise.into(), MOST_IN_A_ROW);
    if let Some(port) = check.port {
        findings.expect_count(&place, "port", port.into(), u16::MAX.into());
    }
    check_port(service, check, &place, findings);
    check_http(check, &place, findings);
    check_https(check, &place, findings);
}

/// Nothing that every UDP server answers can be asked.
fn check_port(
    service: &ServiceConfig,
    check: &CheckConfig,
    place: &Place,
    findings: &mut Findings<'_>,
) {
    let is_udp = |protocol| protocol == Protocol::Udp;
    if check.port.is_none() && service.listeners.iter().any(|it| is_udp(it.protocol)) {
        let what = "port is missing; expected the TCP port on which backends of UDP listeners say whether they can serve";
        findings.add(place, what);
    }
}

fn check_http(check: &CheckConfig, place: &Place, findings: &mut Findings<'_>) {
    if check.kind == CheckKind::Tcp {
        for (key, is_there) in [
            ("path", check.path.is_some()),
            ("host", check.host.is_some()),
            ("expect_status", check.expect_status.is_some()),
        ] {
            if is_there {
                let what = format!(
                    "{key} is for kind = \"http\" and \"https\"; expected none with kind = \"tcp\""
                );
                findings.add(&place.key(key), what);
            }
        }
    }
    let is_sendable = |text: &str| {
        (1..=MAX_HEADER_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !check.path().starts_with('/') || !is_sendable(check.path()) {
        let what = format!(
            "path is {:?}; expected printable ASCII without spaces that begins with `/`, at most {MAX_HEADER_BYTES} bytes",
            check.path()
        );
        findings.add(&place.key("path"), what);
    }
    if let Some(host) = check.host.as_deref().filter(|host| !is_sendable(host)) {
        let what = format!("host is {host:?}; expected a name, with a port if one is meant");
        findings.add(&place.key("host"), what);
    }
    if let Some(status) = check.expect_status.filter(|it| !(100..=599).contains(it)) {
        let what = format!("expect_status is {status}; expected 100 to 599");
        findings.add(&place.key("expect_status"), what);
    }
}

fn check_https(check: &CheckConfig, place: &Place, findings: &mut Findings<'_>) {
    if check.kind != CheckKind::Https {
        for (key, is_there) in [
            ("ca_file", check.ca_file.is_some()),
            ("verify", check.verify.is_some()),
        ] {
            if is_there {
                let what =
                    format!("{key} is for kind = \"https\"; expected none with another kind");
                findings.add(&place.key(key), what);
            }
        }
        return;
    }
    if let Some(name) = check.host_name()
        && ServerName::try_from(name).is_err()
    {
        let what = format!(
            "host is {:?}; expected a DNS name or an address, which the backend's certificate must have",
            check.host.as_deref().unwrap_or_default()
        );
        findings.add(&place.key("host"), what);
    }
    let Some(file) = &check.ca_file else { return };
    if !check.verifies() {
        let what = "ca_file is of no use with verify = false; expected one of them";
        findings.add(&place.key("ca_file"), what);
    } else if !file.is_absolute() {
        let what = format!(
            "ca_file is {}; expected an absolute path, as the agent may start in any directory",
            file.display()
        );
        findings.add(&place.key("ca_file"), what);
    }
}
