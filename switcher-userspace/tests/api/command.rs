//! Runs command lines in this process, with streams that are looked at afterwards.

use std::{ffi::OsString, path::Path};

use serde_json::Value;
use switcher_common::service::Color;
use switcher_userspace::{
    api::types::{ApiError, ChangeReply, ErrorCode},
    cli::{self, Console, Local},
    config::Config,
};

use crate::fake::Served;

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Standard output as the one object that it must be.
    pub(crate) fn object(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {:?}", self.out))
    }
}

pub(crate) const LOCAL: Local = Local {
    check: |_| anyhow::bail!("not called by these tests"),
    agent: |args| {
        let text = std::fs::read_to_string(&args.config)?;
        Config::parse(&args.config, &text)?;
        Ok(())
    },
    detach: |args| {
        if args.force {
            return Ok(ChangeReply {
                changed: true,
                generation: 4,
                active: [("web".to_owned(), Color::Blue)].into(),
                would_change: None,
                visible_us: None,
                barrier_us: None,
                detect_ms: None,
                difference: None,
                error: None,
            });
        }
        let error = ApiError::new(ErrorCode::Refused, "17 flows are in flight", "use --force");
        Err(anyhow::Error::from(error).context("cannot detach"))
    },
};

pub(crate) fn run_at(socket: &Path, line: &str, typed: Option<&str>) -> Ran {
    let mut words: Vec<OsString> = vec!["switcher".into(), "--socket".into(), socket.into()];
    words.extend(line.split_whitespace().map(OsString::from));
    run_words(words, typed)
}

/// Runs a command line; `typed` is what somebody types at a terminal, `None`: there is none.
pub(crate) fn run_words(words: Vec<OsString>, typed: Option<&str>) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = typed.unwrap_or_default().as_bytes();
    let mut console = Console::new(&mut input, &mut out, &mut err, typed.is_some());
    let code = cli::run(words, LOCAL, &mut console);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code,
        out: text(out),
        err: text(err),
    }
}

pub(crate) fn local(line: &str) -> Ran {
    let words = format!("switcher {line}");
    run_words(words.split_whitespace().map(OsString::from).collect(), None)
}

pub(crate) fn run(served: &Served, line: &str) -> Ran {
    run_at(&served.socket(), line, None)
}
