//! What stands on standard error while the demo runs: on a terminal a block that is drawn anew,
//! elsewhere one plain line for each event.

use std::{
    collections::BTreeMap,
    env,
    io::{IsTerminal as _, Write as _, stderr},
    time::Instant,
};

use switcher_common::service::{Color, PerColor};

use crate::{load::Totals, plan::Service};

/// Characters of a bar.
const BAR: usize = 30;

/// The block's width.
const COLUMNS: u16 = 80;

/// A picture of the moment.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Flips so far.
    pub(crate) flip: usize,
    /// Flips to make.
    pub(crate) flips: u32,
    /// The active color.
    pub(crate) active: Color,
    /// Live flows on blue and green, by service.
    pub(crate) in_flight: [[u64; 2]; Service::ALL.len()],
    /// From the last flip's start to the first connection on the new color.
    pub(crate) first_new_ms: Option<f64>,
    /// Drains of the last flip that have ended.
    pub(crate) drain_ms: BTreeMap<Service, u64>,
    /// Counters of the load.
    pub(crate) totals: Totals,
}

/// Standard error.
pub(crate) struct Display {
    began: Instant,
    live: bool,
    colored: bool,
    before: Option<(Instant, Totals)>,
    /// The block as it stands there now.
    block: Vec<String>,
}

impl Display {
    pub(crate) fn new(began: Instant) -> Self {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            began,
            live: stderr().is_terminal() && !dumb && is_wide_enough(),
            colored: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            before: None,
            block: Vec::new(),
        }
    }

    /// Whether frames are shown.
    pub(crate) const fn is_live(&self) -> bool {
        self.live
    }

    /// A line that stays.
    pub(crate) fn event(&mut self, what: &str) {
        let line = format!("[{:5.1} s] {what}", self.began.elapsed().as_secs_f64());
        let block = std::mem::take(&mut self.block);
        let mut text = erase(block.len());
        text.push_str(&line);
        text.push('\n');
        self.block = block;
        text.extend(self.block.iter().map(|line| format!("{line}\n")));
        put(&text);
    }

    /// Replaces the block.
    pub(crate) fn draw(&mut self, frame: Frame) {
        let now = Instant::now();
        let block = self.lines(&frame, now);
        let mut text = erase(self.block.len());
        text.extend(block.iter().map(|line| format!("{line}\n")));
        put(&text);
        self.block = block;
        self.before = Some((now, frame.totals));
    }

    /// Takes the block away.
    pub(crate) fn close(&mut self) {
        put(&erase(self.block.len()));
        self.block.clear();
    }

    fn lines(&self, frame: &Frame, now: Instant) -> Vec<String> {
        let old = frame.active.other();
        let mut lines = vec![
            String::new(),
            format!(
                "  flip {} of {}: {} is active{:20}answers/s   still on {}",
                frame.flip,
                frame.flips,
                self.paint(frame.active, &format!("{:5}", frame.active.name())),
                "",
                self.paint(old, old.name())
            ),
        ];
        for service in Service::ALL {
            let rate = self.rate(service, frame, now);
            lines.push(format!(
                "  {:9} {} {:9.0} {:10}",
                service.name(),
                self.bar(&rate),
                rate.blue + rate.green,
                frame.in_flight[service as usize][old as usize]
            ));
        }
        lines.push(last_flip(frame));
        let Totals {
            failed,
            broken,
            lost,
            ..
        } = frame.totals;
        lines.push(format!(
            "  so far: failed {failed}, broken {broken}, datagrams lost {lost}"
        ));
        lines
    }

    /// Answers per second since the last frame.
    fn rate(&self, service: Service, frame: &Frame, now: Instant) -> PerColor<f64> {
        let zero = (self.began, Totals::default());
        let (at, before) = self.before.as_ref().unwrap_or(&zero);
        let seconds = (now - *at).as_secs_f64().max(1e-3);
        PerColor::from_fn(|color| {
            let count = |totals: &Totals| *totals.answered[service as usize].get(color);
            let new = count(&frame.totals) - count(before);
            f64::from(u32::try_from(new).unwrap_or(u32::MAX)) / seconds
        })
    }

    fn bar(&self, rate: &PerColor<f64>) -> String {
        let all = rate.blue + rate.green;
        let blue_cells = (0..BAR).filter(|&cell| {
            let middle = (f64::from(u32::try_from(cell).unwrap_or(0)) + 0.5) / 30.0;
            middle * all < rate.blue
        });
        let blue = blue_cells.count();
        let green = if all > 0.0 { BAR - blue } else { 0 };
        let mut bar = self.paint(Color::Blue, &"█".repeat(blue));
        bar.push_str(&self.paint(Color::Green, &"▒".repeat(green)));
        bar.push_str(&" ".repeat(BAR - blue - green));
        bar
    }

    fn paint(&self, color: Color, text: &str) -> String {
        let code = match color {
            Color::Blue => 34,
            Color::Green => 32,
        };
        if self.colored {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn last_flip(frame: &Frame) -> String {
    let first = frame
        .first_new_ms
        .map_or_else(|| "...".to_owned(), |ms| format!("{ms:.1} ms"));
    let drains = Service::THAT_DRAIN.map(|service| {
        let ms = frame.drain_ms.get(&service);
        let ms = ms.map_or_else(|| "...".to_owned(), |ms| format!("{ms} ms"));
        format!("{} {ms}", service.name())
    });
    if frame.flip == 0 {
        return "  last flip: none yet".to_owned();
    }
    let drains = drains.join(", ");
    format!("  last flip: first new {first}; drained: {drains}")
}

/// Lines that wrap cannot be drawn anew.
fn is_wide_enough() -> bool {
    rustix::termios::tcgetwinsize(stderr()).is_ok_and(|size| size.ws_col >= COLUMNS)
}

/// Moves up over `lines` lines and clears from there.
fn erase(lines: usize) -> String {
    if lines == 0 {
        String::new()
    } else {
        format!("\x1b[{lines}A\x1b[J")
    }
}

/// Nobody may read it; the demo goes on.
fn put(text: &str) {
    let mut out = stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
