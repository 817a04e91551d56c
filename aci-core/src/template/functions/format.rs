//! `format`: .NET composite format strings.

use std::fmt::Write;

use serde_json::Value;

use super::Call;
use crate::template::error::TemplateResult;
use crate::template::value::text_of;

pub(super) fn format(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, usize::MAX)?;
    let text = call.text(0)?;
    let mut result = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.peek() == Some(&'{') => {
                chars.next();
                result.push('{');
            }
            '}' if chars.peek() == Some(&'}') => {
                chars.next();
                result.push('}');
            }
            '{' => {
                let mut item = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some(c) => item.push(c),
                        None => {
                            return Err(call.refuse(
                                "the format string ends inside '{'; write '{{' for a brace",
                            ));
                        }
                    }
                }
                let piece = item_text(call, &item)?;
                call.spend(piece.len())?;
                result.push_str(&piece);
            }
            '}' => {
                return Err(
                    call.refuse("the format string has a '}' without '{'; write '}}' for a brace")
                );
            }
            other => result.push(other),
        }
    }
    Ok(Value::String(result))
}

/// One item: `index[,alignment][:format]`.
fn item_text(call: &Call<'_, '_, '_>, item: &str) -> TemplateResult<String> {
    let (head, format) = match item.split_once(':') {
        Some((head, format)) => (head, format),
        None => (item, ""),
    };
    let (index, alignment) = match head.split_once(',') {
        Some((index, alignment)) => (index, alignment),
        None => (head, "0"),
    };
    // The format string may come from a secret: nothing of it is shown.
    let malformed =
        || call.refuse("the format string has an item that is not like '{0}', '{0,5}' or '{0:N0}'");
    let index: usize = index.trim().parse().map_err(|_| malformed())?;
    let alignment: i32 = alignment.trim().parse().map_err(|_| malformed())?;
    let value = call.args.get(index.saturating_add(1)).ok_or_else(|| {
        call.refuse(format!(
            "the format string has an item without parameter; {} are given",
            call.args.len() - 1
        ))
    })?;
    let text = match value {
        Value::Number(number) if !format.is_empty() => match number.as_i64() {
            Some(number) => integer(number, format).ok_or_else(|| {
                call.refuse("the number format is not supported; D, F, N, X, G and zeros are")
            })?,
            None => return Err(call.refuse("number formats are supported for integers only")),
        },
        other => text_of(other),
    };
    let width = usize::try_from(alignment.unsigned_abs()).unwrap_or(usize::MAX);
    let missing = width.saturating_sub(text.encode_utf16().count());
    call.spend(missing)?;
    let fill = " ".repeat(missing);
    Ok(if alignment < 0 {
        text + &fill
    } else {
        fill + &text
    })
}

/// An integer in one of .NET's standard formats, or in a custom format of zeros and `#`.
fn integer(number: i64, format: &str) -> Option<String> {
    let first = format.chars().next()?;
    let digits = number.unsigned_abs().to_string();
    let sign = if number < 0 { "-" } else { "" };
    if !first.is_ascii_alphabetic() {
        return custom(sign, &digits, format);
    }
    let precision = match &format[1..] {
        "" => None,
        text => Some(
            text.parse::<usize>()
                .ok()
                .filter(|precision| *precision <= 99)?,
        ),
    };
    let fraction = |default: usize| match precision.unwrap_or(default) {
        0 => String::new(),
        places => format!(".{}", "0".repeat(places)),
    };
    let least = precision.unwrap_or(0);
    Some(match first {
        'D' | 'd' => format!("{sign}{digits:0>least$}"),
        'F' | 'f' => format!("{sign}{digits}{}", fraction(2)),
        'N' | 'n' => format!("{sign}{}{}", grouped(&digits), fraction(2)),
        'X' => format!("{number:0>least$X}"),
        'x' => format!("{number:0>least$x}"),
        'G' | 'g' if precision.is_none() => format!("{sign}{digits}"),
        _ => return None,
    })
}

/// Groups of three digits, with commas as the invariant culture writes them.
fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn custom(sign: &str, digits: &str, format: &str) -> Option<String> {
    if !format.chars().all(|c| matches!(c, '0' | '#')) {
        return None;
    }
    let least = format.find('0').map_or(0, |first| format.len() - first);
    let digits = if digits == "0" { "" } else { digits };
    let mut text = String::new();
    write!(text, "{sign}{digits:0>least$}").ok()?;
    Some(text)
}
