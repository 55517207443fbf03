//! What a command says, compared with what a page shows.

/// Stands for what varies.
const ANYTHING: &str = "...";

/// Whether `found` is what `shown` tells.
///
/// `...` stands for anything within a line; alone on a line, for any number of lines. Several spaces
/// are as good as one, so that columns may have any width; empty lines at the end do not count.
pub(super) fn is_alike(shown: &[String], found: &str) -> bool {
    let shown: Vec<String> = shown.iter().map(|line| spaced(line)).collect();
    let found: Vec<String> = found.lines().map(spaced).collect();
    lines(without_end(&shown), without_end(&found))
}

fn spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without_end(lines: &[String]) -> &[String] {
    let end = lines.iter().rposition(|line| !line.is_empty());
    &lines[..end.map_or(0, |last| last + 1)]
}

fn lines(shown: &[String], found: &[String]) -> bool {
    match shown.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == ANYTHING => {
            (0..=found.len()).any(|skipped| lines(rest, &found[skipped..]))
        }
        Some((first, rest)) => found
            .split_first()
            .is_some_and(|(line, others)| is_line(first, line) && lines(rest, others)),
    }
}

fn is_line(shown: &str, found: &str) -> bool {
    let Some((before, after)) = shown.split_once(ANYTHING) else {
        return shown == found;
    };
    let Some(mut rest) = found.strip_prefix(before) else {
        return false;
    };
    let mut parts: Vec<&str> = after.split(ANYTHING).collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_marked_may_vary() {
        let alike = |shown: &str, found: &str| {
            let shown: Vec<String> = shown.lines().map(str::to_owned).collect();
            is_alike(&shown, found)
        };
        for (shown, found) in [
            ("a b", "a   b\n"),
            ("took ... ms", "took 12 ms\n"),
            ("... to ...", "from a to b"),
            ("look ...", "look ...\n"),
            ("a\n...\nb", "a\nx\ny\nb\n"),
            ("a\n...\nb", "a\nb\n"),
            ("a\n\n", "a\n"),
            ("", ""),
        ] {
            assert!(alike(shown, found), "{shown:?} is {found:?}");
        }
        for (shown, found) in [
            ("a b", "a c"),
            ("a b", "ab"),
            ("took ... ms", "took 12 s"),
            ("x ... y ... z", "x y z"),
            ("... aa", "aa"),
            ("a", "a\nb"),
            ("a\nb", "a"),
            ("a\n...\nb", "a\nb\nc"),
            ("", "a"),
            ("a", ""),
        ] {
            assert!(!alike(shown, found), "{shown:?} is not {found:?}");
        }
    }
}
