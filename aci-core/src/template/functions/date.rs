//! Times in UTC, ISO 8601 durations and .NET's date formats in the invariant culture.

use jiff::civil::DateTime;
use jiff::{Span, Timestamp, tz::TimeZone};
use serde_json::Value;

use super::Call;
use crate::template::error::TemplateResult;
use crate::template::scope::{Part, not_expected_here};

const ISO: &str = "yyyy-MM-ddTHH:mm:ssZ";

pub(super) fn utc_now(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(0, 1)?;
    if !matches!(call.frame.part, Part::Default) {
        return Err(not_expected_here(call.name));
    }
    let now = Timestamp::try_from(call.evaluator.context.now)
        .map_err(|_| call.refuse("the time is out of range"))?;
    write(
        call,
        utc(now),
        call.optional_text(0)?.unwrap_or("yyyyMMddTHHmmssZ"),
    )
}

fn utc(time: Timestamp) -> DateTime {
    TimeZone::UTC.to_datetime(time)
}

pub(super) fn date_time_add(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 3)?;
    let base = read(call, call.text(0)?)?;
    let duration = call.text(1)?.trim();
    // The parser also reads forms such as `1h`, which Resource Manager does not.
    let iso = duration.trim_start_matches(['-', '+']).starts_with('P');
    let span: Option<Span> = if iso { duration.parse().ok() } else { None };
    let span = span.ok_or_else(|| {
        call.refuse("the duration is not an ISO 8601 duration such as 'PT1H' or '-P9D'")
    })?;
    let sum = base
        .checked_add(span)
        .map_err(|_| call.refuse("the result is out of range"))?;
    write(call, sum, call.optional_text(2)?.unwrap_or(ISO))
}

pub(super) fn from_epoch(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let time = Timestamp::from_second(call.int(0)?)
        .map_err(|_| call.refuse("the time is out of range"))?;
    write(call, utc(time), ISO)
}

pub(super) fn to_epoch(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let time = TimeZone::UTC
        .to_timestamp(read(call, call.text(0)?)?)
        .map_err(|_| call.refuse("the time is out of range"))?;
    Ok(Value::from(time.as_second()))
}

/// Reads a time with an offset, or takes it for UTC. The short form of `utcNow` is read too.
fn read(call: &Call<'_, '_, '_>, text: &str) -> TemplateResult<DateTime> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(utc(time));
    }
    text.trim_end_matches(['Z', 'z'])
        .parse()
        .map_err(|_| call.refuse("the time is not an ISO 8601 time such as '2020-04-07T14:53:14Z'"))
}

fn write(call: &Call<'_, '_, '_>, time: DateTime, format: &str) -> TemplateResult<Value> {
    let pattern = match format {
        "d" => "MM/dd/yyyy",
        "D" => "dddd, dd MMMM yyyy",
        "f" => "dddd, dd MMMM yyyy HH:mm",
        "F" | "U" => "dddd, dd MMMM yyyy HH:mm:ss",
        "g" => "MM/dd/yyyy HH:mm",
        "G" => "MM/dd/yyyy HH:mm:ss",
        "m" | "M" => "MMMM dd",
        "o" | "O" => "yyyy-MM-ddTHH:mm:ss.fffffffZ",
        "r" | "R" => "ddd, dd MMM yyyy HH:mm:ss 'GMT'",
        "s" => "yyyy-MM-ddTHH:mm:ss",
        "t" => "HH:mm",
        "T" => "HH:mm:ss",
        "u" => "yyyy-MM-dd HH:mm:ssZ",
        "y" | "Y" => "yyyy MMMM",
        single if single.chars().count() == 1 => {
            return Err(call.refuse("the single letter is not a standard date format"));
        }
        custom => custom,
    };
    call.spend(pattern.len())?;
    custom(time, pattern)
        .map(Value::String)
        .ok_or_else(|| call.refuse("a quoted text in the date format does not end"))
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Writes a time in a custom format; `None` when a quote does not end.
fn custom(time: DateTime, pattern: &str) -> Option<String> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut text = String::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let run = chars[at..].iter().take_while(|other| **other == c).count();
        let mut used = run;
        match c {
            'y' => {
                let year = i32::from(time.year());
                text.push_str(&match run {
                    1 => format!("{}", year % 100),
                    2 => format!("{:02}", year % 100),
                    _ => format!("{year:0run$}"),
                });
            }
            'M' => match run {
                1 | 2 => text.push_str(&padded(time.month(), run)),
                _ => {
                    let name = usize::try_from(time.month() - 1)
                        .ok()
                        .and_then(|month| MONTHS.get(month))?;
                    text.push_str(if run == 3 { &name[..3] } else { name });
                }
            },
            'd' => match run {
                1 | 2 => text.push_str(&padded(time.day(), run)),
                _ => {
                    let name = weekday(time);
                    text.push_str(if run == 3 { &name[..3] } else { name });
                }
            },
            'H' => text.push_str(&padded(time.hour(), run)),
            'h' => text.push_str(&padded((time.hour() + 11) % 12 + 1, run)),
            'm' => text.push_str(&padded(time.minute(), run)),
            's' => text.push_str(&padded(time.second(), run)),
            'f' | 'F' => {
                let digits = format!("{:09}", time.subsec_nanosecond());
                let digits = &digits[..run.min(7)];
                text.push_str(if c == 'f' {
                    digits
                } else {
                    digits.trim_end_matches('0')
                });
            }
            't' => text.push_str(&(if time.hour() < 12 { "AM" } else { "PM" })[..run.min(2)]),
            'K' => text.push('Z'),
            'z' => text.push_str(match run {
                1 => "+0",
                2 => "+00",
                _ => "+00:00",
            }),
            '\'' | '"' => {
                used = 1;
                loop {
                    match chars.get(at + used)? {
                        end if *end == c => break,
                        other => text.push(*other),
                    }
                    used += 1;
                }
                used += 1;
            }
            '\\' => {
                text.push(*chars.get(at + 1)?);
                used = 2;
            }
            '%' => used = 1,
            other => text.extend(std::iter::repeat_n(other, run)),
        }
        at += used;
    }
    Some(text)
}

fn padded(number: i8, run: usize) -> String {
    if run == 1 {
        number.to_string()
    } else {
        format!("{number:02}")
    }
}

fn weekday(time: DateTime) -> &'static str {
    match time.date().weekday() {
        jiff::civil::Weekday::Monday => "Monday",
        jiff::civil::Weekday::Tuesday => "Tuesday",
        jiff::civil::Weekday::Wednesday => "Wednesday",
        jiff::civil::Weekday::Thursday => "Thursday",
        jiff::civil::Weekday::Friday => "Friday",
        jiff::civil::Weekday::Saturday => "Saturday",
        jiff::civil::Weekday::Sunday => "Sunday",
    }
}
