//! Logs as text.

use aci_core::contract::{LogLine, LogStream};
use aci_core::error::Error;
use futures_util::StreamExt;

/// The end of a log as text within so many bytes, and the error that ended it early, if one did.
/// No more than about twice of that is ever in memory, however long the log is.
pub(crate) async fn end(
    mut stream: LogStream,
    timestamps: bool,
    bytes: usize,
) -> (String, Option<Error>) {
    let (mut text, mut begins) = (String::new(), true);
    while let Some(line) = stream.next().await {
        match line {
            Ok(line) => push(&mut text, &mut begins, &line, timestamps),
            Err(error) => return (last_bytes(&text, bytes).to_owned(), Some(error)),
        }
        if text.len() > bytes.saturating_mul(2) {
            text = last_bytes(&text, bytes).to_owned();
        }
    }
    (last_bytes(&text, bytes).to_owned(), None)
}

/// Appends a line, ended by a line feed unless it goes on in the next record; with its time in
/// front if asked for (ACI's `timestamps`).
fn push(text: &mut String, begins: &mut bool, line: &LogLine, timestamps: bool) {
    if timestamps && *begins {
        text.push_str(&line.at.to_string());
        text.push(' ');
    }
    text.push_str(&String::from_utf8_lossy(&line.line));
    *begins = !line.partial;
    if *begins {
        text.push('\n');
    }
}

/// The end of a text within so many bytes, beginning with a whole line where there is one.
pub(crate) fn last_bytes(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut from = text.len() - bytes;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    match text[from..].find('\n') {
        Some(end) if from + end + 1 < text.len() => &text[from + end + 1..],
        _ => &text[from..],
    }
}

/// The last lines of a text.
pub(crate) fn last_lines(text: &str, lines: u32) -> &str {
    if lines == 0 {
        return "";
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    match body.rmatch_indices('\n').nth(wanted - 1) {
        Some((at, _)) => &text[at + 1..],
        None => text,
    }
}

/// The text without the time at the beginning of each line.
pub(crate) fn without_times(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aci_core::contract::OutputStream;
    use aci_core::time::Timestamp;
    use proptest::prelude::*;

    fn line(text: &str, partial: bool) -> LogLine {
        LogLine {
            at: Timestamp::from_secs(1),
            stream: OutputStream::Stdout,
            line: text.as_bytes().to_vec().into(),
            partial,
        }
    }

    #[test]
    fn a_cut_line_is_joined_again() {
        let lines = [line("a", false), line("b", true), line("c", false)];
        let text = |timestamps| {
            let (mut text, mut begins) = (String::new(), true);
            for line in &lines {
                push(&mut text, &mut begins, line, timestamps);
            }
            text
        };
        assert_eq!(text(false), "a\nbc\n");
        let timed = text(true);
        assert_eq!(timed, "1970-01-01T00:00:01Z a\n1970-01-01T00:00:01Z bc\n");
        assert_eq!(without_times(&timed), "a\nbc\n");
    }

    #[test]
    fn the_end_is_kept_in_whole_lines() {
        assert_eq!(last_bytes("one\ntwo\nthree\n", 9), "three\n");
        assert_eq!(last_bytes("short", 100), "short");
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb", 1), "b");
        assert_eq!(last_lines("a\n", 5), "a\n");
        assert_eq!(last_lines("a\n", 0), "");
    }

    /// A log without end must not fill the memory of whoever reads its end.
    #[tokio::test]
    async fn of_an_endless_log_only_the_end_is_held() {
        let lines =
            futures_util::stream::iter((0..200_000).map(|i| Ok(line(&i.to_string(), false))));
        let (text, error) = end(Box::pin(lines), false, 20).await;
        assert_eq!((text.as_str(), error.is_none()), ("199998\n199999\n", true));
        let lost = Error::new(aci_core::error::ErrorKind::Lost, "x", "y");
        let lines = futures_util::stream::iter([Ok(line("a", false)), Err(lost)]);
        let (text, error) = end(Box::pin(lines), false, 20).await;
        assert_eq!((text.as_str(), error.is_some()), ("a\n", true));
    }

    proptest! {
        #[test]
        fn the_end_is_an_end_and_fits(text in "[a-zé\n]{0,60}", bytes in 0usize..70, lines in 0u32..10) {
            let kept = last_bytes(&text, bytes);
            prop_assert!(kept.len() <= bytes.max(text.len().min(bytes)));
            prop_assert!(text.ends_with(kept));
            let kept = last_lines(&text, lines);
            prop_assert!(text.ends_with(kept));
            prop_assert!(kept.lines().count() <= lines as usize);
        }
    }
}
