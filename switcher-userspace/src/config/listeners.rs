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
