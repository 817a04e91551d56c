//! Which machine an image is for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operating system and a processor, in the names of the OCI image specification (those of
/// Go's `GOOS` and `GOARCH`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, `windows`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `v7`, `v8` and the like, where it matters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on the processor that this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether an image for `other` runs here. A variant that either side leaves out fits all;
    /// `arm64` and `arm64/v8` are the same.
    #[must_use]
    pub fn runs(&self, other: &Self) -> bool {
        let variant = |p: &Self| match (p.architecture.as_str(), p.variant.as_deref()) {
            ("arm64", Some("v8")) | (_, Some("")) => None,
            (_, variant) => variant.map(str::to_owned),
        };
        let fits = match (variant(self), variant(other)) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        };
        self.os == other.os && self.architecture == other.architecture && fits
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::host()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next(),
        }
    }

    #[test]
    fn variants_matter_only_where_both_have_one() {
        let arm = platform("linux/arm64");
        assert!(arm.runs(&platform("linux/arm64/v8")));
        assert!(arm.runs(&platform("linux/arm64")));
        assert!(!arm.runs(&platform("linux/arm/v7")));
        assert!(!arm.runs(&platform("windows/arm64")));
        assert!(!platform("linux/arm/v7").runs(&platform("linux/arm/v6")));
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
    }
}
