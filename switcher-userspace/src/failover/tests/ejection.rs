//! Who keeps slots, row by row, and what holds for any backends.

use proptest::prelude::*;

use super::*;

/// Backends from a text: `h`ealthy, `u`nhealthy, `d`ead, `?` unknown, `-` without checks; upper case (`!` for
/// unknown): drained by hand.
fn backends(text: &str) -> Vec<Candidate> {
    let one = |letter: char| Candidate {
        health: match letter.to_ascii_lowercase() {
            'h' => Some(Health::Healthy),
            'u' | 'd' => Some(Health::Unhealthy),
            '-' => None,
            _ => Some(Health::Unknown),
        },
        is_drained: letter.is_ascii_uppercase() || letter == '!',
        is_dead: letter.eq_ignore_ascii_case(&'d'),
    };
    text.chars().map(one).collect()
}

/// The letters of those that keep slots, the active color's first.
fn who(active: &str, standby: &str, min_healthy: u32) -> (String, String, bool) {
    let both = PerColor {
        blue: backends(active),
        green: backends(standby),
    };
    let kept = kept(Color::Blue, false, &both, min_healthy);
    let letters = |text: &str, kept: &Kept| -> String {
        assert_eq!(kept.keeps_slots.len(), text.len());
        let pairs = text.chars().zip(&kept.keeps_slots);
        pairs
            .filter(|(_, keeps)| **keeps)
            .map(|(it, _)| it)
            .collect()
    };
    (
        letters(active, &kept.blue),
        letters(standby, &kept.green),
        kept.blue.is_fail_open,
    )
}

#[test]
fn g6_unhealthy_backends_leave_unless_nobody_better_is_left() {
    let rows = [
        ("hhh", "hh", 1, "hhh", "hh", false, "all are well"),
        ("hhu", "hh", 1, "hh", "hh", false, "an unhealthy one leaves"),
        ("hhu", "uh", 1, "hh", "h", false, "on either color"),
        (
            "hhH",
            "hh",
            1,
            "hh",
            "hh",
            false,
            "so does one drained by hand",
        ),
        ("h?u", "hh", 1, "h?", "hh", false, "unknown is no failure"),
        ("???", "??", 1, "???", "??", false, "nor at the start"),
        ("---", "-", 1, "---", "-", false, "without checks all stay"),
        (
            "uuu",
            "uu",
            1,
            "uuu",
            "uu",
            true,
            "neither could serve: all stay",
        ),
        (
            "uuU",
            "uu",
            1,
            "uu",
            "uu",
            true,
            "but what is drained by hand",
        ),
        ("huu", "uu", 2, "huu", "uu", true, "neither has min_healthy"),
        (
            "huu",
            "hu",
            2,
            "huu",
            "h",
            true,
            "the standby does not fail open",
        ),
        (
            "u?u",
            "uu",
            1,
            "u?u",
            "uu",
            true,
            "neither is known to have enough",
        ),
        (
            "huu",
            "hh",
            2,
            "h",
            "hh",
            false,
            "failover waits: the eligible one serves",
        ),
        ("u?u", "hh", 1, "?", "hh", false, "or one that may be well"),
        ("uuu", "hh", 1, "uuu", "hh", true, "and all where none is"),
        (
            "hh",
            "uu",
            1,
            "hh",
            "uu",
            false,
            "no table is empty, the standby's neither",
        ),
        (
            "HH",
            "hh",
            1,
            "",
            "hh",
            false,
            "unless all are drained by hand",
        ),
        ("HU", "uu", 1, "", "uu", false, "on both"),
        ("", "", 1, "", "", false, "or there are none"),
    ];
    for (active, standby, min_healthy, keeps, standby_keeps, is_open, why) in rows {
        let found = who(active, standby, min_healthy);
        let expected = (keeps.to_owned(), standby_keeps.to_owned(), is_open);
        assert_eq!(found, expected, "{active} {standby} {min_healthy}: {why}");
    }
}

fn any_backends() -> impl Strategy<Value = Vec<Candidate>> {
    let health = proptest::sample::select(vec![
        None,
        Some(Health::Unknown),
        Some(Health::Healthy),
        Some(Health::Unhealthy),
    ]);
    let one = (health, proptest::bool::weighted(0.2), any::<bool>()).prop_map(
        |(health, is_drained, is_dead)| Candidate {
            health,
            is_drained,
            is_dead: health == Some(Health::Unhealthy) && is_dead,
        },
    );
    proptest::collection::vec(one, 0..6)
}

#[test]
fn the_dead_leave_a_color_that_gets_no_fresh_flows() {
    let kept = |active, standby, is_open| (String::from(active), String::from(standby), is_open);
    assert_eq!(who("hh", "du", 1), kept("hh", "u", false), "the standby");
    assert_eq!(who("hh", "dd", 1), kept("hh", "", false), "all of it");
    assert_eq!(who("dd", "hh", 1), kept("dd", "hh", true), "fresh flows");
    let both = PerColor {
        blue: backends("hh"),
        green: backends("dd"),
    };
    let shared = super::kept(Color::Blue, true, &both, 1).green;
    assert_eq!(shared.keeps_slots, [true; 2], "a share of them");
}

proptest! {
    #[test]
    fn no_table_is_empty_no_eligible_backend_leaves_and_no_drained_one_stays(
        blue in any_backends(),
        green in any_backends(),
        min_healthy in 1..4_u32,
        is_blue in any::<bool>(),
        is_shared in any::<bool>(),
    ) {
        let active = if is_blue { Color::Blue } else { Color::Green };
        let both = PerColor { blue, green };
        let kept = kept(active, is_shared, &both, min_healthy);
        for color in Color::ALL {
            let backends = both.get(color);
            let keeps = &kept.get(color).keeps_slots;
            prop_assert_eq!(keeps.len(), backends.len());
            for (backend, keeps) in backends.iter().zip(keeps) {
                prop_assert!(*keeps || !backend.is_eligible());
                prop_assert!(!(*keeps && backend.is_drained));
            }
            let gets_fresh = is_shared || color == active;
            let can_serve = (backends.iter()).any(|it| !it.is_drained && (gets_fresh || !it.is_dead));
            prop_assert_eq!(keeps.contains(&true), can_serve);
        }
    }
}
