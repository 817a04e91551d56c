//! Api-versions, and which of them know a property.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// An api-version of Azure Container Instances: a date, for previews followed by `-preview`.
///
/// Versions are ordered by date; a preview stands before the stable version of the same date.
///
/// ```
/// use aci_core::model::ApiVersion;
/// let old: ApiVersion = "2021-10-01".parse()?;
/// assert!(old < ApiVersion::LATEST);
/// assert!("2026-06-01-preview".parse::<ApiVersion>()?.is_preview());
/// # Ok::<(), aci_core::model::ParseApiVersionError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApiVersion {
    year: u16,
    month: u8,
    day: u8,
    preview: bool,
}

impl ApiVersion {
    /// The newest version that this crate knows.
    pub const LATEST: Self = Self {
        year: 2026,
        month: 7,
        day: 1,
        preview: false,
    };

    /// Whether this is a preview.
    pub const fn is_preview(self) -> bool {
        self.preview
    }

    /// The date as a number that orders as dates do.
    pub(crate) const fn date(self) -> u32 {
        (self.year as u32) * 10_000 + (self.month as u32) * 100 + self.day as u32
    }

    /// Reads `YYYY-MM-DD` or `YYYY-MM-DD-preview`.
    pub(crate) const fn from_text(text: &str) -> Option<Self> {
        let b = text.as_bytes();
        if b.len() != 10 && b.len() != 18 {
            return None;
        }
        if b[4] != b'-' || b[7] != b'-' {
            return None;
        }
        let mut digits = [0u8; 10];
        let mut i = 0;
        while i < 10 {
            if i != 4 && i != 7 {
                if !b[i].is_ascii_digit() {
                    return None;
                }
                digits[i] = b[i] - b'0';
            }
            i += 1;
        }
        let preview = b.len() == 18;
        if preview {
            let tail = b"-preview";
            let mut i = 0;
            while i < 8 {
                if b[10 + i].to_ascii_lowercase() != tail[i] {
                    return None;
                }
                i += 1;
            }
        }
        let year = digits[0] as u16 * 1000
            + digits[1] as u16 * 100
            + digits[2] as u16 * 10
            + digits[3] as u16;
        let month = digits[5] * 10 + digits[6];
        let day = digits[8] * 10 + digits[9];
        if month == 0 || month > 12 || day == 0 || day > 31 {
            return None;
        }
        Some(Self {
            year,
            month,
            day,
            preview,
        })
    }
}

impl Default for ApiVersion {
    fn default() -> Self {
        Self::LATEST
    }
}

impl Ord for ApiVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.date()
            .cmp(&other.date())
            .then(other.preview.cmp(&self.preview))
    }
}

impl PartialOrd for ApiVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = if self.preview { "-preview" } else { "" };
        write!(
            f,
            "{:04}-{:02}-{:02}{tail}",
            self.year, self.month, self.day
        )
    }
}

/// A text that is not an api-version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an api-version: write a date such as 2023-05-01 or 2026-06-01-preview")]
pub struct ParseApiVersionError(String);

impl FromStr for ApiVersion {
    type Err = ParseApiVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_text(text.trim())
            .ok_or_else(|| ParseApiVersionError(text.chars().take(40).collect()))
    }
}

/// The api-versions that know a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Availability {
    /// The first stable version, if a stable version has it.
    pub stable: Option<ApiVersion>,
    /// The first preview, if it was in a preview before.
    pub preview: Option<ApiVersion>,
    /// The last version that has it, if it is gone from later ones.
    pub until: Option<ApiVersion>,
}

impl Availability {
    /// Builds the value from literals; a first version that is a preview means that no stable one
    /// has the property. An unreadable literal counts as absent, which a test rules out.
    pub(crate) const fn of(first: &str, preview: &str, until: &str) -> Self {
        let first = ApiVersion::from_text(first);
        let until = ApiVersion::from_text(until);
        match first {
            Some(ApiVersion { preview: true, .. }) => Self {
                stable: None,
                preview: first,
                until,
            },
            _ => Self {
                stable: first,
                preview: ApiVersion::from_text(preview),
                until,
            },
        }
    }

    /// Whether `version` has the property.
    ///
    /// Stable versions have it from the first stable one on; previews from the first preview on.
    pub fn includes(&self, version: ApiVersion) -> bool {
        if self.until.is_some_and(|until| version > until) {
            return false;
        }
        let from_stable = self.stable.is_some_and(|s| version.date() >= s.date());
        from_stable
            || (version.is_preview() && self.preview.is_some_and(|p| version.date() >= p.date()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let v = |t: &str| t.parse::<ApiVersion>().unwrap();
        assert!(v("2017-08-01-preview") < v("2018-04-01"));
        assert!(v("2026-07-01-preview") < v("2026-07-01"));
        assert_eq!(v("2026-06-01-preview").to_string(), "2026-06-01-preview");
        for bad in [
            "",
            "2021",
            "2021-13-01",
            "2021-10-01-beta",
            "20211-0-01",
            "2021-10-0á",
        ] {
            assert!(bad.parse::<ApiVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_property_in_previews_first_is_in_no_older_stable_version() {
        let a = Availability::of("2025-09-01", "2024-05-01-preview", "");
        let v = |t: &str| t.parse::<ApiVersion>().unwrap();
        assert!(a.includes(v("2024-05-01-preview")) && a.includes(v("2024-11-01-preview")));
        assert!(a.includes(v("2025-09-01")) && a.includes(v("2026-06-01-preview")));
        assert!(!a.includes(v("2023-05-01")) && !a.includes(v("2024-01-01-preview")));
        let gone = Availability::of("2018-09-01", "", "2021-03-01");
        assert!(gone.includes(v("2021-03-01")) && !gone.includes(v("2021-07-01")));
    }
}
