//! What the agent says of the hops that flows keep: whether one watches, and which ones serve no more.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, MapData};
use switcher_common::{clock::ticks_from_ns, hop};

use super::{
    clock,
    error::{Attempt as _, DataPathError},
    pins::PinDir,
};

const NAME: &str = "HOP_WATCH";

/// A handle on it; clones write the same one.
#[derive(Clone)]
pub struct HopWatch {
    map: Arc<Mutex<Watched>>,
}

struct Watched {
    map: Array<MapData, hop::HopWatch>,
    /// A change that the program has not been told of.
    owes_raise: bool,
}

impl HopWatch {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        let watched = Watched {
            map: pins.open(NAME)?,
            owes_raise: false,
        };
        Ok(Self {
            map: Arc::new(Mutex::new(watched)),
        })
    }

    /// Has the program ask the kernel for each flow's next hop anew: called when what it answers may have
    /// changed. Waits for nobody.
    pub fn raise(&self) -> Result<(), DataPathError> {
        self.change(|watched| {
            watched.owes_raise = true;
            watched.write(hop::HopWatch::raised)?;
            watched.owes_raise = false;
            Ok(())
        })
    }

    /// Says that the caller watches now, and raises at changes: for a second the program trusts hops that are older
    /// than that. Makes up for a raise that has failed.
    pub fn renew(&self) -> Result<(), DataPathError> {
        self.change(|watched| {
            let now = ticks_from_ns(clock::monotonic_ns());
            let owes_raise = watched.owes_raise;
            watched.write(|it| if owes_raise { it.raised() } else { it }.renewed(now))?;
            watched.owes_raise = false;
            Ok(())
        })
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Watched) -> Result<(), DataPathError>,
    ) -> Result<(), DataPathError> {
        // Whoever panicked with the lock held has left the record of before or the next one.
        change(&mut self.map.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watched {
    fn write(
        &mut self,
        next: impl FnOnce(hop::HopWatch) -> hop::HopWatch,
    ) -> Result<(), DataPathError> {
        if cfg!(mutant = "hop-untold") {
            return Ok(());
        }
        self.map
            .get(&0, 0)
            .and_then(|record| self.map.set(0, next(record), 0))
            .attempt(format!("writing the record in the map {NAME}"))
    }
}
