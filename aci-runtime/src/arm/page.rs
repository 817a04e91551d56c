//! Lists in pages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::call::Call;
use super::error::{ArmError, ArmResult};

/// One page of a list that is sorted by key: what comes after the key in `$skiptoken`, at most
/// `$top` or the front's page, and `nextLink` where there is more.
///
/// # Errors
/// `InvalidSkipToken`; `InvalidTop` for a number that is none.
pub(crate) fn page<T>(
    call: &Call,
    items: impl IntoIterator<Item = (String, T)>,
    show: impl Fn(T) -> Value,
) -> ArmResult<Value> {
    let after = match call.query("$skiptoken") {
        None | Some("") => None,
        Some(token) => Some(
            URL_SAFE_NO_PAD
                .decode(token)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| {
                    ArmError::bad_request(
                        "InvalidSkipToken",
                        "The '$skiptoken' is not one of this server's; begin the list anew.",
                    )
                })?,
        ),
    };
    let most = call.front.options.page.max(1);
    let top = match call.query("$top") {
        None | Some("") => most,
        Some(text) => match text.parse::<usize>() {
            Ok(top) if top > 0 => top.min(most),
            _ => {
                return Err(ArmError::bad_request(
                    "InvalidTop",
                    "The '$top' must be a whole number of at least 1.",
                ));
            }
        },
    };
    let mut rest = items
        .into_iter()
        .skip_while(|(key, _)| after.as_ref().is_some_and(|after| key <= after));
    let mut value = Vec::new();
    let mut last = None;
    for (key, item) in rest.by_ref().take(top) {
        value.push(show(item));
        last = Some(key);
    }
    let mut page = json!({ "value": value });
    if let (Some(last), Some(_)) = (last, rest.next()) {
        let path = call.parts.uri.path();
        let version = call.query("api-version").unwrap_or_default();
        let mut link = format!(
            "{}{path}?api-version={}&$skiptoken={}",
            call.base(),
            percent_encoding::utf8_percent_encode(version, percent_encoding::NON_ALPHANUMERIC),
            URL_SAFE_NO_PAD.encode(last)
        );
        if call.query("$top").is_some() {
            link.push_str(&format!("&$top={top}"));
        }
        page["nextLink"] = json!(link);
    }
    Ok(page)
}
