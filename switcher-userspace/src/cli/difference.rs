//! How a difference of configurations reads: `+` for what is added, `-` for what is removed, `~` for what
//! has other values.

use std::{fmt::Display, net::SocketAddr};

use switcher_common::service::Color;

use crate::{
    config::difference::{
        BackendDifference, Changed, Difference, Kind, ListenerDifference, Place, ServiceDifference,
        ServiceOptions,
    },
    duration::Span,
};

/// Its lines; a single one when nothing differs.
pub(super) fn describe(difference: &Difference) -> String {
    if difference.is_empty() {
        return "no difference to the running configuration".to_owned();
    }
    let mut lines = Vec::new();
    if let Some(rate) = &difference.inserts_per_second {
        lines.push(format!("~ agent: {}", value("inserts_per_second", rate)));
    }
    if let Some(hooks) = &difference.hooks {
        let only = |of: &'_ [String], not: &[String], sign: char| -> Vec<String> {
            let only = of.iter().filter(|hook| !not.contains(hook));
            only.map(|hook| format!("{sign} agent: hook {hook}"))
                .collect()
        };
        lines.extend(only(&hooks.from, &hooks.to, '-'));
        lines.extend(only(&hooks.to, &hooks.from, '+'));
    }
    for service in &difference.services {
        lines.push(headline(service));
        for listener in &service.listeners {
            lines.push(format!("  {}", of_listener(listener)));
            let backends = listener.backends.iter().map(of_backend);
            lines.extend(backends.map(|line| format!("    {line}")));
        }
    }
    lines.join("\n")
}

fn headline(service: &ServiceDifference) -> String {
    let line = format!("{} service {}", sign(service.change), service.name);
    match service.change {
        Kind::Added => line,
        Kind::Removed => format!("{line}: fresh flows end, the ones that it has run on"),
        Kind::Changed => with(line, &options(&service.options)),
    }
}

fn options(options: &ServiceOptions) -> Vec<String> {
    // Destructured, so that a new one is not forgotten.
    let ServiceOptions {
        initial_active,
        min_healthy,
        drain_timeout_ms,
        at_deadline,
        drain_udp_idle_ms,
        idle_unanswered_ms,
        idle_established_ms,
        idle_closing_ms,
        idle_udp_ms,
        second_chance,
        check,
        failover,
    } = options;
    let color = |it: &Changed<Color>| value("initial_active", &named(it, |color| color.name()));
    let spans = [
        ("drain_timeout", drain_timeout_ms),
        ("drain_udp_idle", drain_udp_idle_ms),
        ("idle.unanswered", idle_unanswered_ms),
        ("idle.established", idle_established_ms),
        ("idle.closing", idle_closing_ms),
        ("idle.udp", idle_udp_ms),
    ];
    let spans = spans.into_iter().filter_map(|(key, changed)| {
        let changed = changed.as_ref()?;
        Some(value(key, &named(changed, |ms| Span::from_millis(*ms))))
    });
    let at_deadline = at_deadline.as_ref().map(|it| named(it, |it| it.name()));
    let table = |key: &str, it: &Changed<Option<String>>| {
        let text = |it: &Option<String>| it.clone().unwrap_or_else(|| "none".to_owned());
        value(key, &named(it, text))
    };
    let others = [
        check.as_ref().map(|it| table("check", it)),
        failover.as_ref().map(|it| table("failover", it)),
        initial_active.as_ref().map(color),
        min_healthy.as_ref().map(|it| value("min_healthy", it)),
        at_deadline.map(|it| value("at_deadline", &it)),
        second_chance.as_ref().map(|it| value("second_chance", it)),
    ];
    others.into_iter().flatten().chain(spans).collect()
}

fn of_listener(listener: &ListenerDifference) -> String {
    let line = format!("{} listener {}", sign(listener.change), listener.name);
    let now = place(&listener.place);
    match (&listener.before, listener.change) {
        (Some(before), _) => format!("{line}: {} -> {now}", place(before)),
        (None, Kind::Changed) => line,
        (None, Kind::Added | Kind::Removed) => format!("{line}: {now}"),
    }
}

fn place(place: &Place) -> String {
    let endpoint = SocketAddr::new(place.vip, place.port);
    let preview = if place.preview { ", preview" } else { "" };
    format!("{} {endpoint}{preview}", place.protocol.name())
}

fn of_backend(backend: &BackendDifference) -> String {
    let endpoint = SocketAddr::new(backend.address, backend.port);
    let before = backend.weight_before;
    let before = before.map_or_else(String::new, |weight| format!("{weight} -> "));
    format!(
        "{} {} {endpoint}, weight {before}{}",
        sign(backend.change),
        backend.color.name(),
        backend.weight
    )
}

const fn sign(kind: Kind) -> char {
    match kind {
        Kind::Added => '+',
        Kind::Removed => '-',
        Kind::Changed => '~',
    }
}

fn with(line: String, values: &[String]) -> String {
    if values.is_empty() {
        line
    } else {
        format!("{line}: {}", values.join(", "))
    }
}

fn value<T: Display>(key: &str, changed: &Changed<T>) -> String {
    format!("{key} {} -> {}", changed.from, changed.to)
}

fn named<T, N>(changed: &Changed<T>, name: impl Fn(&T) -> N) -> Changed<N> {
    Changed {
        from: name(&changed.from),
        to: name(&changed.to),
    }
}
