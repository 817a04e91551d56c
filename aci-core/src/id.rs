//! Names of things: groups as users name them, sandboxes as the machine names them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// How a user names a group: subscription, resource group and name, as ARM does.
///
/// Programs without such scopes use `GroupRef::from("web")`. Names compare without regard to case,
/// as ARM's do; they are kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupRef {
    subscription: String,
    resource_group: String,
    name: String,
}

impl GroupRef {
    /// The subscription of groups that were named without one.
    pub const DEFAULT_SUBSCRIPTION: &'static str = "00000000-0000-0000-0000-000000000000";
    /// The resource group of groups that were named without one.
    pub const DEFAULT_RESOURCE_GROUP: &'static str = "default";

    /// A group in a subscription and a resource group.
    #[must_use]
    pub fn new(subscription: &str, resource_group: &str, name: &str) -> Self {
        Self {
            subscription: subscription.to_lowercase(),
            resource_group: resource_group.to_lowercase(),
            name: name.to_lowercase(),
        }
    }

    /// The subscription, in lower case.
    #[must_use]
    pub fn subscription(&self) -> &str {
        &self.subscription
    }

    /// The resource group, in lower case.
    #[must_use]
    pub fn resource_group(&self) -> &str {
        &self.resource_group
    }

    /// The group's name, in lower case.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// ARM's resource id.
    #[must_use]
    pub fn resource_id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerInstance/containerGroups/{}",
            self.subscription, self.resource_group, self.name
        )
    }
}

impl From<&str> for GroupRef {
    fn from(name: &str) -> Self {
        Self::new(
            Self::DEFAULT_SUBSCRIPTION,
            Self::DEFAULT_RESOURCE_GROUP,
            name,
        )
    }
}

impl From<&String> for GroupRef {
    fn from(name: &String) -> Self {
        Self::from(name.as_str())
    }
}

impl From<&Self> for GroupRef {
    fn from(group: &Self) -> Self {
        group.clone()
    }
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subscription != Self::DEFAULT_SUBSCRIPTION {
            write!(f, "{}/", self.subscription)?;
        }
        if self.resource_group != Self::DEFAULT_RESOURCE_GROUP {
            write!(f, "{}/", self.resource_group)?;
        }
        f.write_str(&self.name)
    }
}

/// The machine's name of one deployment of a group: unique for ever on a host, 1 to 40 characters
/// of `a-z`, `0-9` and `-`.
///
/// Every kernel object of a group (cgroup, mount, namespace, link, rule, VM) is named after it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    /// Longest length in characters.
    pub const MAX: usize = 40;

    /// A new id with the beginning of the group's name, for readers, and 60 random bits.
    #[must_use]
    pub fn generate(group: &str) -> Self {
        let stem: String = group
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
            .take(20)
            .collect();
        let stem = stem.trim_matches('-');
        let random = uuid::Uuid::new_v4().simple().to_string();
        let tail = &random[..15];
        if stem.is_empty() {
            Self(format!("g-{tail}"))
        } else {
            Self(format!("{stem}-{tail}"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fits = !text.is_empty()
            && text.len() <= Self::MAX
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::new(
                ErrorKind::Invalid,
                "sandbox_id.parse",
                format!(
                    "'{text}' is not a sandbox id: 1 to {} of a-z, 0-9 and '-', not starting with '-'",
                    Self::MAX
                ),
            ))
        }
    }
}

impl TryFrom<String> for SandboxId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_parse_and_differ() {
        for name in ["web", "", "---", "Ünïcode Name", &"x".repeat(100)] {
            let a = SandboxId::generate(name);
            assert_eq!(a.as_str().parse::<SandboxId>().unwrap(), a);
            assert_ne!(a, SandboxId::generate(name));
        }
    }

    #[test]
    fn group_names_ignore_case() {
        assert_eq!(GroupRef::from("Web"), GroupRef::from("web"));
        assert_eq!(GroupRef::new("s", "RG", "n").to_string(), "s/rg/n");
        assert_eq!(GroupRef::from("web").to_string(), "web");
    }
}
