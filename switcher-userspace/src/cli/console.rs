//! The streams of a command.

use std::io::{self, BufRead, ErrorKind, IsTerminal as _, Write};

use rustix::termios::tcgetwinsize;

use crate::api::types::ErrorCode;

/// Where a command reads and writes; the process's streams, or a test's.
pub struct Console<'a> {
    input: &'a mut dyn BufRead,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Somebody can be asked: input and standard error are terminals.
    pub(super) interactive: bool,
    /// Standard error is a terminal, so a line on it can be drawn again.
    pub(super) live: bool,
    /// Standard output is a terminal.
    screen: bool,
}

impl<'a> Console<'a> {
    /// The process's streams; looks at them for terminals.
    pub fn of_process(
        input: &'a mut dyn BufRead,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
    ) -> Self {
        let live = io::stderr().is_terminal();
        let interactive = live && io::stdin().is_terminal();
        Self {
            input,
            out,
            err,
            interactive,
            live,
            screen: io::stdout().is_terminal(),
        }
    }

    /// Other streams; `terminal` says whether they stand for one.
    pub fn new(
        input: &'a mut dyn BufRead,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
        terminal: bool,
    ) -> Self {
        Self {
            input,
            out,
            err,
            interactive: terminal,
            live: terminal,
            screen: terminal,
        }
    }

    /// Writes the answer to standard output; the exit code: `code`, or 1 when it cannot be written.
    pub(super) fn print(&mut self, text: &str, code: u8) -> u8 {
        let newline = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let written = write!(self.out, "{text}{newline}").and_then(|()| self.out.flush());
        match written {
            // A reader that has left (`| head`) has what it wanted, and what was done stands.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                self.note(&format!(
                    "error: cannot write the answer to standard output: {error}"
                ));
                if code == 0 {
                    ErrorCode::Internal.exit_code()
                } else {
                    code
                }
            }
            _ => code,
        }
    }

    /// Writes a line of an answer that goes on to standard output.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Rows and columns of standard output, if it is a terminal: as they are now.
    pub(super) fn screen(&self) -> Option<(usize, usize)> {
        if !self.screen {
            return None;
        }
        let size = tcgetwinsize(io::stdout()).ok();
        // Terminals that do not know their size say 0.
        let size = size.filter(|size| size.ws_row > 0 && size.ws_col > 0);
        Some(size.map_or((usize::MAX, usize::MAX), |size| {
            (size.ws_row.into(), size.ws_col.into())
        }))
    }

    /// Writes a line to standard error.
    pub(super) fn note(&mut self, line: &str) {
        self.draw(&format!("{line}\n"));
    }

    /// Writes to standard error as it is. Nobody can be told when that fails.
    pub(super) fn draw(&mut self, text: &str) {
        let _ = write!(self.err, "{text}").and_then(|()| self.err.flush());
    }

    /// Asks a question whose default is no.
    pub(super) fn confirm(&mut self, question: &str) -> bool {
        self.draw(&format!("{question} [y/N] "));
        let mut reply = String::new();
        let read = self.input.read_line(&mut reply);
        read.is_ok() && matches!(reply.trim(), "y" | "Y" | "yes")
    }
}
