//! The signature of the HTTP Data Collector API.
//!
//! Source: Microsoft Learn, "Send log data to Azure Monitor by using the HTTP Data Collector API".

use aci_core::model::Secret;
use aci_core::time::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// The path that is signed and posted to.
pub(super) const PATH: &str = "/api/logs";

/// A time as HTTP writes it: `Fri, 20 Nov 2026 09:49:00 GMT`.
pub(super) fn date(at: Timestamp) -> String {
    let seconds = i64::try_from(at.since(Timestamp::EPOCH).as_secs()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The value of `Authorization`; `None` if the key is not base64.
pub(super) fn authorization(
    workspace: &str,
    key: &Secret,
    length: usize,
    date: &str,
) -> Option<String> {
    let key = zeroize::Zeroizing::new(STANDARD.decode(key.expose().trim()).ok()?);
    let text = format!("POST\n{length}\napplication/json\nx-ms-date:{date}\n{PATH}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
    Some(format!(
        "SharedKey {workspace}:{}",
        STANDARD.encode(signature)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_as_microsofts_sample_does() {
        let date = date(Timestamp::from_secs(1_800_000_000));
        assert_eq!(date, "Fri, 15 Jan 2027 08:00:00 GMT");
        let key = Secret::new("c2VjcmV0IGtleQ==");
        // From the Python sample of the page above with the same arguments.
        assert_eq!(
            authorization("w", &key, 42, &date).unwrap(),
            "SharedKey w:Cbfc/WJXHG8ASVq7Ci/Ly2TurrQa7/BgL00qQ+/XTBo="
        );
        assert!(authorization("w", &Secret::new("no base64!"), 42, &date).is_none());
    }
}
