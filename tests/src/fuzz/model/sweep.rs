//! The program's own sweep of the established table (rule 3.4): a ring of flows, and a hand in it that
//! moves on with each flow that is established, or finds no room.

use super::tables::{Table, Tables};
use super::types::{Entry, State, Tuple};

/// Slots that the hand passes for each established flow.
const STEPS: usize = 3;

/// Idle timeouts of a service in ticks; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// No answer yet.
    pub unanswered: u32,
    /// TCP.
    pub established: u32,
    /// Seems over.
    pub closing: u32,
    /// UDP, by color.
    pub udp: [u32; 2],
    /// UDP of previews.
    pub udp_preview: u32,
}

/// One family's ring.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    slots: Vec<Option<Tuple>>,
    hand: usize,
}

impl Ring {
    /// An empty ring of `len` slots.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            slots: vec![None; len],
            hand: 0,
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.slots.fill(None);
        self.hand = 0;
    }

    /// Puts a flow into the next `count` slots; their numbers.
    pub fn crowd(&mut self, tuple: Tuple, count: usize) -> Vec<usize> {
        let len = self.slots.len();
        // A hand beyond the end stands for the first slot.
        let numbers: Vec<usize> = (0..count).map(|step| (self.hand + step) % len).collect();
        for number in &numbers {
            self.slots[*number] = Some(tuple);
        }
        numbers
    }

    /// The hand moves on, for a flow that is established now (`new`), or for which there was no room.
    /// `idle` is by service id. What is noted, and the flows that are forgotten.
    pub(super) fn sweep(
        &mut self,
        tables: &mut Tables,
        new: Option<Tuple>,
        idle: &[Idle],
        now: u32,
    ) -> (Vec<&'static str>, Vec<Entry>) {
        let (mut notes, mut swept, mut unplaced) = (Vec::new(), Vec::new(), new);
        for _ in 0..STEPS {
            let slot = self.pass();
            let is_free = match slot.and_then(|it| Some((it, tables.get(Table::Established, &it)?)))
            {
                None => true,
                Some((at, found)) if is_idle(tables, &at, &found, idle, now) => {
                    tables.forget(&at, &found);
                    notes.push("flow_swept");
                    swept.push(found);
                    true
                }
                Some(_) => false,
            };
            if is_free && unplaced.is_some() {
                *slot = unplaced.take();
            }
        }
        if unplaced.is_some() {
            notes.push("sweep_full");
        }
        (notes, swept)
    }

    fn pass(&mut self) -> &mut Option<Tuple> {
        if self.hand >= self.slots.len() {
            self.hand = 0;
        }
        self.hand += 1;
        &mut self.slots[self.hand - 1]
    }
}

/// Whether a flow was silent for longer than its service allows, in both directions.
fn is_idle(tables: &Tables, tuple: &Tuple, entry: &Entry, idle: &[Idle], now: u32) -> bool {
    let silence = |seen: u32| {
        let ticks = now.wrapping_sub(seen);
        // What another CPU has just written may lie slightly in the future.
        if ticks > u32::MAX / 2 { 0 } else { ticks }
    };
    let other = tables.other(tuple, entry);
    let other = other.map_or(u32::MAX, |(_, _, other)| silence(other.seen));
    let idle = idle[usize::from(entry.service)];
    let timeout = match entry.state {
        State::Unanswered | State::Answered => idle.unanswered,
        State::Established if tuple.is_tcp() => idle.established,
        State::Established if entry.preview => idle.udp_preview,
        State::Established => idle.udp[usize::from(entry.color)],
        State::Closing | State::Refused | State::Cut => idle.closing,
    };
    timeout != 0 && silence(entry.seen).min(other) > timeout
}
