//! Checks of backends that prove less than they seem to.

use super::{Report, list, report::Problem};
use crate::{
    config::{CheckKind, Config},
    issuers,
};

pub(super) fn check(config: &Config, report: &mut Report) {
    let missing = issuers::missing(config).into_iter().map(|(service, why)| {
        Problem::warning(
            format!("the checks of {service} will fail: {why}"),
            "mend ca_file in [service.check]: a PEM file with the certificates of the issuers",
        )
    });
    report.settle(
        "certificates",
        unverified(config).into_iter().chain(missing).collect(),
    );
}

fn unverified(config: &Config) -> Option<Problem> {
    let services = config.services.iter();
    let of_service = services.filter_map(|service| {
        let check = service.check.as_ref()?;
        (check.kind == CheckKind::Https && !check.verifies()).then(|| service.name.clone())
    });
    let names: Vec<String> = of_service.collect();
    (!names.is_empty()).then(|| {
        Problem::warning(
            format!(
                "HTTPS checks of {} verify no certificate: an expired one, or another server, passes them",
                list(&names)
            ),
            "verify = true in [service.check], with ca_file where the system does not know the issuer",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn findings(check: &str) -> Vec<String> {
        let text = format!(
            "[agent]\ninterfaces = ['a']\n[[service]]\nname = 'web'\n[service.check]\n{check}\n\
             [[service.listener]]\nname = 'l'\nvip = '192.0.2.1'\nport = 80\nprotocol = 'tcp'\n\
             blue = [{{ address = '10.0.0.1', port = 80 }}]\n"
        );
        let config = Config::parse(Path::new("test.toml"), &text).expect("a configuration");
        let mut report = Report::default();
        super::check(&config, &mut report);
        report.findings.into_iter().map(|it| it.what).collect()
    }

    #[test]
    fn checks_that_verify_no_certificate_are_found() {
        let found = findings("kind = 'https'\nverify = false");
        assert!(
            found.len() == 1 && found[0].starts_with("HTTPS checks of web verify no certificate"),
            "{found:?}"
        );
        for check in ["kind = 'http'", ""] {
            assert_eq!(findings(check), Vec::<String>::new(), "{check}");
        }
    }

    #[test]
    fn issuers_that_cannot_be_read_are_found() {
        let found = findings("kind = 'https'\nca_file = '/nonexistent/ca.pem'");
        assert!(
            found.len() == 1
                && found[0].contains("cannot read certificates in /nonexistent/ca.pem"),
            "{found:?}"
        );
    }
}
