//! Times of replies.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::document::tree::Node;

use super::codec::{Property, Reader, Shape, Writer};

/// A date and time of a reply, in the notation of RFC 3339, such as `2023-05-01T16:52:33.342Z`.
///
/// The text is kept as it came; a time made here is in UTC with milliseconds where there are any.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use aci_core::model::Timestamp;
/// let start = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
/// assert_eq!(start.as_str(), "1970-01-01T00:00:01.5Z");
/// let event = Timestamp::to_the_second(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
/// assert_eq!(event.as_str(), "1970-01-01T00:00:01Z");
/// assert_eq!(start.to_system_time(), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(String);

impl Timestamp {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The time without a fraction of a second, as events have it.
    pub fn to_the_second(time: SystemTime) -> Self {
        let whole = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()),
            Err(_) => time,
        };
        Self::from(whole)
    }

    /// The time; `None` if the text is not a time with its offset from UTC.
    pub fn to_system_time(&self) -> Option<SystemTime> {
        self.0.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
    }
}

/// A text that is not a date and time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a date and time of RFC 3339, such as 2023-05-01T16:52:33Z")]
pub struct ParseTimestampError(String);

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .map(|_| Self(text.to_owned()))
            .map_err(|_| ParseTimestampError(text.chars().take(60).collect()))
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before the year -9999 or after the year 9999 become the nearest of those.
    fn from(time: SystemTime) -> Self {
        let time = jiff::Timestamp::try_from(time).unwrap_or_else(|_| {
            if time < SystemTime::UNIX_EPOCH {
                jiff::Timestamp::MIN
            } else {
                jiff::Timestamp::MAX
            }
        });
        let millis = jiff::Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time);
        Self(millis.to_string())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Property for Timestamp {
    const SHAPE: Shape = Shape::Text;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        // Only replies carry times; one that is odd is kept rather than refused.
        Self(reader.text(node))
    }

    fn write(&self, _: &Writer) -> serde_json::Value {
        serde_json::Value::String(self.0.clone())
    }
}

super::codec::serde_through_json!(Timestamp);
