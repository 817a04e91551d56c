//! Base64, URIs, data URIs and JSON in strings.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Call;
use crate::template::error::TemplateResult;
use crate::template::places::read;

pub(super) fn base64(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::String(STANDARD.encode(call.text(0)?)))
}

fn decode(call: &Call<'_, '_, '_>, text: &str) -> TemplateResult<String> {
    let bytes = STANDARD
        .decode(text.trim())
        .map_err(|_| call.refuse("the value is not base64"))?;
    String::from_utf8(bytes).map_err(|_| call.refuse("the decoded value is not UTF-8 text"))
}

pub(super) fn base64_to_string(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    decode(call, call.text(0)?).map(Value::String)
}

pub(super) fn base64_to_json(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    parse(call, &decode(call, call.text(0)?)?)
}

pub(super) fn json(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    parse(call, call.text(0)?)
}

fn parse(call: &Call<'_, '_, '_>, text: &str) -> TemplateResult<Value> {
    call.spend(text.len())?;
    // The reader's own message may show a part of a secret.
    let node = read(text).map_err(|error| match error.position() {
        Some(place) => call.refuse(format!(
            "the text is not JSON at line {}, column {} of it",
            place.line, place.column
        )),
        None => call.refuse("the text is not JSON"),
    })?;
    Ok(node.to_json())
}

pub(super) fn data_uri(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    Ok(Value::String(format!(
        "data:text/plain;charset=utf8;base64,{}",
        STANDARD.encode(call.text(0)?)
    )))
}

pub(super) fn data_uri_to_string(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let (head, data) = call
        .text(0)?
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(','))
        .ok_or_else(|| call.refuse("the value is not a data URI"))?;
    if head.trim_end().ends_with(";base64") {
        decode(call, data)
    } else {
        percent_decode(call, data)
    }
    .map(Value::String)
}

pub(super) fn uri_component(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let mut encoded = String::new();
    for byte in call.text(0)?.bytes() {
        // RFC 3986, unreserved characters.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(Value::String(encoded))
}

pub(super) fn uri_component_to_string(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    percent_decode(call, call.text(0)?).map(Value::String)
}

fn percent_decode(call: &Call<'_, '_, '_>, text: &str) -> TemplateResult<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = text
            .get(at + 1..at + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) if byte == b'%' => {
                decoded.push(code);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).map_err(|_| call.refuse("the decoded value is not UTF-8 text"))
}

/// Joins a base and a relative URI. The last segment of the base counts only when it ends in
/// a slash, as RFC 3986, section 5.3 says.
pub(super) fn uri(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    let (base, relative) = (call.text(0)?, call.text(1)?);
    if relative.contains("://") {
        return Ok(Value::from(relative));
    }
    let (scheme, rest) = base
        .split_once("://")
        .ok_or_else(|| call.refuse("the base is not an absolute URI"))?;
    let (host, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let joined = if relative.is_empty() {
        path.to_owned()
    } else if relative.starts_with('/') {
        relative.to_owned()
    } else {
        let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
        format!("{folder}{relative}")
    };
    let (joined, query) = match joined.find(['?', '#']) {
        Some(at) => joined.split_at(at),
        None => (joined.as_str(), ""),
    };
    let mut segments: Vec<&str> = Vec::new();
    let mut pieces = joined.trim_start_matches('/').split('/').peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            "." | ".." => {
                if piece == ".." {
                    segments.pop();
                }
                if pieces.peek().is_none() {
                    segments.push("");
                }
            }
            other => segments.push(other),
        }
    }
    Ok(Value::String(format!(
        "{scheme}://{host}/{}{query}",
        segments.join("/")
    )))
}
