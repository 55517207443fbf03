//! Runs other programs: long ones with progress, and every failure with what was tried.

use std::{
    collections::VecDeque,
    env,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

const TAIL_LINES: usize = 25;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Tells the person at the terminal what goes on. Stdout is left to the commands' results.
pub(crate) fn say(message: &str) {
    eprintln!("xtask: {message}");
}

/// A program on the PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Runs `command` with the terminal as its output, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs `command` with its output kept back: shows progress now and then, and the last lines if
/// it fails. Returns what it wrote to stdout.
pub(crate) fn run_kept_back(
    what: &str,
    command: &mut Command,
    time_limit: Duration,
) -> Result<String> {
    let mut child = command
        // A backtrace would push the message itself out of the last lines.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: cannot run {}", shown(command)))?;
    let mut output = Output::default();
    let ended = follow(what, &mut child, time_limit, &mut output)
        .with_context(|| format!("{what}: cannot wait for {}", shown(command)))?;
    let how = match ended {
        Some(status) if status.success() => return Ok(output.stdout),
        Some(status) => format!("ended with {status}"),
        None => format!("was stopped after {} s", time_limit.as_secs()),
    };
    Err(anyhow!(
        "{what}: {} {how}; its last lines:\n{}",
        shown(command),
        output.tail()
    ))
}

/// How a command is shown in messages: the program's name and the arguments, without environment.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy()));
    format!("`{}`", words.join(" "))
}

#[derive(Default)]
struct Output {
    stdout: String,
    last: VecDeque<String>,
}

impl Output {
    fn add(&mut self, is_stdout: bool, line: String) {
        if is_stdout {
            self.stdout.push_str(&line);
            self.stdout.push('\n');
        }
        if self.last.len() == TAIL_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn tail(&self) -> String {
        let lines: Vec<_> = self.last.iter().map(|line| format!("    {line}")).collect();
        if lines.is_empty() {
            "    (it said nothing)".to_owned()
        } else {
            lines.join("\n")
        }
    }
}

/// Collects the output until the program has closed it; `None` when the time is over.
fn follow(
    what: &str,
    child: &mut Child,
    time_limit: Duration,
    output: &mut Output,
) -> std::io::Result<Option<ExitStatus>> {
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), true, &sender);
    forward(child.stderr.take(), false, &sender);
    drop(sender);
    let start = Instant::now();
    let mut shown_at = start;
    loop {
        match lines.recv_timeout(POLL_EVERY) {
            Ok((is_stdout, line)) => output.add(is_stdout, line),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return child.wait().map(Some),
        }
        if start.elapsed() > time_limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        if shown_at.elapsed() > PROGRESS_EVERY {
            shown_at = Instant::now();
            let last = output.last.back().map_or("", |line| line.trim());
            say(&format!("{what}: {} s, {last}", start.elapsed().as_secs()));
        }
    }
}

fn forward(
    stream: Option<impl Read + Send + 'static>,
    is_stdout: bool,
    sender: &mpsc::Sender<(bool, String)>,
) {
    let Some(stream) = stream else { return };
    let sender = sender.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send((is_stdout, line)).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn stdout_is_returned_without_stderr() {
        let out = run_kept_back("test", &mut shell("echo out; echo err >&2"), LIMIT)
            .expect("sh is there");
        assert_eq!(out, "out\n");
    }

    #[test]
    fn a_failure_tells_what_ran_how_it_ended_and_the_last_lines() {
        let error = run_kept_back("greeting", &mut shell("echo oh no >&2; exit 3"), LIMIT)
            .expect_err("it has to fail")
            .to_string();
        for part in ["greeting", "sh -c", "exit status: 3", "oh no"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    #[test]
    fn the_time_limit_ends_a_program_that_hangs() {
        let error = run_kept_back(
            "nap",
            &mut shell("exec sleep 60"),
            Duration::from_millis(300),
        )
        .expect_err("it has to fail")
        .to_string();
        assert!(error.contains("was stopped"), "{error}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut output = Output::default();
        for number in 0..100 {
            output.add(false, number.to_string());
        }
        assert_eq!(output.last.len(), TAIL_LINES);
        assert!(output.tail().ends_with("99"));
    }
}
