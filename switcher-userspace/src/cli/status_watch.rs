//! `switcher status --watch`

use super::{
    Console,
    follow::{Ends, in_json, show},
    status::describe,
};
use crate::api::{client::Client, types::ApiError};

/// Shows the status, and again whenever it has changed, until somebody ends it or the reader has left.
pub(super) async fn follow(
    services: Option<&[String]>,
    json: bool,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), ApiError> {
    let mut ends = Ends::catch()?;
    let mut watch = client.watch_status(services).await?;
    let mut is_first = true;
    loop {
        let status = tokio::select! {
            status = watch.next() => status?,
            () = ends.requested() => return Ok(()),
        };
        let text = if json {
            in_json(&status)?
        } else if let Some(screen) = console.screen() {
            redrawn(&describe(&status), screen, is_first)
        } else {
            describe(&status)
        };
        if show(console, &text)?.is_break() {
            return Ok(());
        }
        is_first = false;
    }
}

/// `text` over what was drawn before: as many lines as the screen has, so that none scrolls away, and
/// none wider than it, so that none wraps.
fn redrawn(text: &str, (rows, columns): (usize, usize), is_first: bool) -> String {
    let clear = if is_first { "\x1b[2J" } else { "" };
    // The last row is where the cursor stays.
    let lines = text.lines().take(rows.saturating_sub(1)).map(|line| {
        let end = line.char_indices().nth(columns);
        &line[..end.map_or(line.len(), |(at, _)| at)]
    });
    let lines: Vec<&str> = lines.collect();
    format!("{clear}\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrawn_text_fits_the_screen() {
        let drawn = redrawn("αβγδ\nb\nc\nd\n", (4, 3), true);
        let lines = "\x1b[2J\x1b[Hαβγ\x1b[K\nb\x1b[K\nc\x1b[K\x1b[J";
        assert_eq!(drawn, lines);
        let again = redrawn("a\n", (4, 3), false);
        assert_eq!(again, "\x1b[Ha\x1b[K\x1b[J");
    }
}
