//! The listeners of a service, and what a flip asks about all of them at once.

use std::ops::Deref;

use serde::Deserialize;
use switcher_common::service::{Color, PerColor};

use super::ListenerConfig;

/// Listeners in the order of the file; never changed, so that what is known of all of them stays true.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "Vec<ListenerConfig>")]
pub struct Listeners {
    all: Vec<ListenerConfig>,
    fewest_backends: PerColor<Option<usize>>,
}

impl Listeners {
    /// How many backends of `color` the listener has that has the fewest, previews left out; `None`: there are only
    /// previews, or none.
    #[must_use]
    pub fn fewest_backends(&self, color: Color) -> Option<usize> {
        *self.fewest_backends.get(color)
    }
}

impl From<Vec<ListenerConfig>> for Listeners {
    fn from(all: Vec<ListenerConfig>) -> Self {
        let fewest = |color| {
            let listeners = all.iter().filter(|it| !it.preview);
            listeners.map(|it| it.backends(color).len()).min()
        };
        Self {
            fewest_backends: PerColor::from_fn(fewest),
            all,
        }
    }
}

impl Deref for Listeners {
    type Target = [ListenerConfig];

    fn deref(&self) -> &[ListenerConfig] {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Listeners {
    type Item = &'a ListenerConfig;
    type IntoIter = std::slice::Iter<'a, ListenerConfig>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use switcher_common::service::Protocol;

    use super::*;
    use crate::config::BackendConfig;

    /// A listener with so many backends of blue and green.
    fn listener([blue, green]: [usize; 2], preview: bool) -> ListenerConfig {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let backend = BackendConfig {
            address,
            port: 80,
            weight: 1,
        };
        ListenerConfig {
            name: "any".to_owned(),
            vip: address,
            port: 80,
            protocol: Protocol::Tcp,
            preview,
            blue: vec![backend.clone(); blue],
            green: vec![backend; green],
        }
    }

    #[test]
    fn the_fewest_backends_are_those_of_a_listener_that_is_no_preview() {
        for (all, expected) in [
            (vec![], [None, None]),
            (vec![listener([1, 1], true)], [None, None]),
            (
                vec![
                    listener([3, 1], false),
                    listener([2, 4], false),
                    listener([0, 0], true),
                ],
                [Some(2), Some(1)],
            ),
        ] {
            let listeners = Listeners::from(all);
            let found = Color::ALL.map(|color| listeners.fewest_backends(color));
            assert_eq!(found, expected);
        }
    }
}
