//! A backend's health, row by row.

use proptest::prelude::*;

use super::*;

const TERMS: CheckTerms = CheckTerms { fall: 3, rise: 2 };

/// Health after a text of results: `+` passed, `-` failed.
fn after(results: &str, terms: CheckTerms) -> Health {
    let mut checked = Checked::default();
    for result in results.chars() {
        checked.observe(result == '+', terms);
    }
    checked.health
}

#[test]
fn results_in_a_row_decide_the_health_of_a_backend() {
    use Health::{Healthy, Unhealthy, Unknown};
    let rows = [
        ("", Unknown, "nothing is known before the first result"),
        ("+", Healthy, "from unknown the first pass decides"),
        ("-", Unknown, "a failure does not"),
        ("--", Unknown, "nor do two"),
        ("---", Unhealthy, "`fall` in a row do"),
        ("--+", Healthy, "a pass among failures decides"),
        ("+--", Healthy, "fewer than `fall` failures change nothing"),
        ("+--+--", Healthy, "a pass breaks the row"),
        ("+---", Unhealthy, "`fall` in a row do"),
        ("---+", Unhealthy, "fewer than `rise` passes change nothing"),
        ("---+-+", Unhealthy, "a failure breaks the row"),
        ("---++", Healthy, "`rise` in a row do"),
        ("---++--", Healthy, "and the count begins anew"),
        ("---++---", Unhealthy, "to the same end"),
    ];
    for (results, health, why) in rows {
        assert_eq!(after(results, TERMS), health, "{results:?}: {why}");
    }
    let zero = CheckTerms { fall: 0, rise: 0 };
    for (results, health) in [("-", Unhealthy), ("-+", Healthy), ("+-", Unhealthy)] {
        assert_eq!(after(results, zero), health, "{results:?}: zero is one");
    }
}

#[test]
fn a_change_of_health_is_told_once() {
    let mut checked = Checked::default();
    let results = [true, true, false, false, false, false, true, true];
    let told: Vec<_> = results.map(|passed| checked.observe(passed, TERMS)).into();
    let change = |from, to| Some(HealthChange { from, to });
    let first = change(Health::Unknown, Health::Healthy);
    let down = change(Health::Healthy, Health::Unhealthy);
    let up = change(Health::Unhealthy, Health::Healthy);
    assert_eq!(told, [first, None, None, None, down, None, None, up]);
}

#[test]
fn what_the_data_path_saw_makes_a_backend_unhealthy_at_once_and_rise_brings_it_back() {
    let mut checked = Checked::default();
    checked.observe(true, TERMS);
    checked.observe(false, TERMS);
    let change = checked.fail().expect("a change");
    assert_eq!(
        (change.from, change.to),
        (Health::Healthy, Health::Unhealthy)
    );
    assert_eq!(checked.fail(), None, "it is so already");
    assert_eq!(checked.observe(true, TERMS), None, "one pass is not `rise`");
    assert!(checked.observe(true, TERMS).is_some());
}

#[test]
fn adopted_health_survives_a_restart_and_a_damaged_one_is_refused() {
    let mut checked = Checked::default();
    checked.observe(true, TERMS);
    checked.observe(false, TERMS);
    let text = serde_json::to_string(&checked).expect("JSON");
    let adopted: Checked = serde_json::from_str(&text).expect("the same");
    assert_eq!(adopted, checked);
    let damaged = r#"{"health":"healthy","agianst":1}"#;
    assert!(serde_json::from_str::<Checked>(damaged).is_err());
}

proptest! {
    /// The same as looking at the newest results each time.
    #[test]
    fn any_sequence_of_results_agrees_with_its_newest_rows(
        results in proptest::collection::vec(any::<bool>(), 1..200),
        fall in 1..5_u32,
        rise in 1..5_u32,
    ) {
        let terms = CheckTerms { fall, rise };
        let mut checked = Checked::default();
        let mut health = Health::Unknown;
        for end in 1..=results.len() {
            let newest = results[end - 1];
            checked.observe(newest, terms);
            let row = results[..end].iter().rev().take_while(|it| **it == newest).count();
            let needed = match (health, newest) {
                (Health::Unknown, true) => 1,
                (_, true) => rise as usize,
                (_, false) => fall as usize,
            };
            if row >= needed {
                health = if newest { Health::Healthy } else { Health::Unhealthy };
            }
            prop_assert_eq!(checked.health, health);
        }
    }
}
