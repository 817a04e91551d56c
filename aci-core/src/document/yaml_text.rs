//! Writes JSON values as YAML that every reader reads alike.
//!
//! Readers of YAML 1.1, such as the Azure CLI's, take `on`, `0755`, `12:30` and `2023-05-01` for
//! something else than a string; readers of 1.2 differ in what. So a string is written plain only
//! where no reader sees more than letters in it, and else in double quotes.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// Keys longer than this are written in the explicit form, because readers look for the colon of
/// the short form within 1024 characters.
const LONG_KEY: usize = 500;

/// Writes a value as a YAML document.
pub(crate) fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => write_list(&mut out, items, 0, false),
        single => {
            write_single(&mut out, single);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, columns: usize) {
    out.extend(std::iter::repeat_n(' ', columns));
}

/// Writes entries at a column; `inline` if the first stands after a dash.
fn write_map(out: &mut String, map: &Map<String, Value>, column: usize, inline: bool) {
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 || !inline {
            indent(out, column);
        }
        let mut name = String::new();
        write_text(&mut name, key);
        if name.len() > LONG_KEY {
            let _ = writeln!(out, "? {name}");
            indent(out, column);
        } else {
            out.push_str(&name);
        }
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                write_map(out, inner, column + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                write_list(out, items, column, false);
            }
            single => {
                out.push(' ');
                write_value(out, single, column + 2);
            }
        }
    }
}

/// Writes items at a column; `inline` if the first stands after a dash.
fn write_list(out: &mut String, items: &[Value], column: usize, inline: bool) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 || !inline {
            indent(out, column);
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => write_map(out, inner, column + 2, true),
            Value::Array(inner) if !inner.is_empty() => write_list(out, inner, column + 2, true),
            single => write_value(out, single, column + 2),
        }
    }
}

/// Writes a value that is no filled collection, and ends its line. Texts of several lines are
/// written as such, at `column`, where every reader takes them for the same.
fn write_value(out: &mut String, value: &Value, column: usize) {
    match value {
        Value::String(text) if is_block(text) => {
            let lines = text.strip_suffix('\n');
            out.push_str(if lines.is_some() { "|\n" } else { "|-\n" });
            for line in lines.unwrap_or(text).split('\n') {
                if !line.is_empty() {
                    indent(out, column);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
        single => {
            write_single(out, single);
            out.push('\n');
        }
    }
}

/// Whether a text has several lines and nothing that readers of a literal block treat in different
/// ways: leading and trailing space, control characters, empty lines at an end.
fn is_block(text: &str) -> bool {
    let lines = text.strip_suffix('\n').unwrap_or(text);
    lines.contains('\n')
        && !lines.starts_with([' ', '\n'])
        && !lines.ends_with('\n')
        && lines
            .split('\n')
            .all(|line| !line.ends_with(' ') && !line.chars().any(is_escaped))
}

fn write_single(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_text(out, text),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Writes a number so that YAML 1.1 takes it for one too: a fraction before an exponent, and the
/// exponent with its sign.
fn write_number(out: &mut String, number: &Number) {
    let text = number.to_string();
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
        out.push_str(&text);
        return;
    };
    out.push_str(mantissa);
    if !mantissa.contains('.') {
        out.push_str(".0");
    }
    out.push('e');
    if !exponent.starts_with(['+', '-']) {
        out.push('+');
    }
    out.push_str(exponent);
}

fn write_text(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_escaped(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// What YAML 1.1 does not allow as it is, takes for a line break, or may strip.
fn is_escaped(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{a0}' | '\u{ad}' | '\u{2028}' | '\u{2029}' | '\u{feff}'
        | '\u{fffe}' | '\u{ffff}')
}

/// Whether every reader takes the bare text for this very string.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let Some(first) = text.chars().next() else {
        return false;
    };
    // No number, date, base-60 number or indicator starts with one of these.
    if !(first.is_ascii_alphabetic() || first == '/')
        || WORDS.iter().any(|w| text.eq_ignore_ascii_case(w))
    {
        return false;
    }
    let bytes = text.as_bytes();
    bytes.iter().enumerate().all(|(i, b)| match b {
        b' ' | b':' => bytes
            .get(i + 1)
            .is_some_and(|next| next.is_ascii_alphanumeric() || *next == b'/'),
        _ => {
            b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-' | b'+' | b'=' | b'@')
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_values_are_written_in_block_style() {
        let value = json!({
            "name": "web", "empty": {}, "none": [], "port": 80, "ratio": 1.5, "big": 1e300, "tiny": 1e-9,
            "containers": [{"name": "a", "command": ["sh", "-c", "echo a: b"]}, [1, [2]], {}],
        });
        let text = "name: web\nempty: {}\nnone: []\nport: 80\nratio: 1.5\nbig: 1.0e+300\ntiny: 1.0e-9\n\
            containers:\n- name: a\n  command:\n  - sh\n  - \"-c\"\n  - \"echo a: b\"\n- - 1\n  - - 2\n- {}\n";
        assert_eq!(write(&value), text);
    }

    #[test]
    fn texts_of_several_lines_are_written_as_such() {
        let value = json!({"script": "set -e\n\n  run: x # y\nend\n", "files": ["a\nb", "a\n\n", " a\nb", "a \nb"]});
        let text = "script: |\n  set -e\n\n    run: x # y\n  end\nfiles:\n- |-\n  a\n  b\n- \"a\\n\\n\"\n- \" a\\nb\"\n- \"a \\nb\"\n";
        assert_eq!(write(&value), text);
    }

    #[test]
    fn strings_that_a_reader_may_take_for_something_else_are_quoted() {
        for odd in [
            "",
            " ",
            "on",
            "Off",
            "NO",
            "y",
            "null",
            "~",
            "0755",
            "12:30",
            "2023-05-01",
            "1_000",
            ".5",
            "-",
            "- a",
            "a: b",
            "a:",
            "a #b",
            "#",
            "a ",
            " a",
            "a\nb",
            "'",
            "\"",
            "*x",
            "&x",
            "!x",
            "%x",
            "@x",
            "`x",
            "{",
            "[",
            "é",
            "\u{feff}",
            "<<",
            "=",
            "?",
            "|",
            ">",
        ] {
            assert!(!is_plain(odd), "{odd:?}");
        }
        for plain in [
            "nginx",
            "nginx:1.25",
            "mcr.microsoft.com/azuredocs/aci-helloworld",
            "West US",
            "/mnt/a_b",
        ] {
            assert!(is_plain(plain), "{plain:?}");
        }
    }
}
