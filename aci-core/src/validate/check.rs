//! Collects what is wrong, with its path.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::error::Problem;
use crate::model::codec::Step;
use crate::model::{ApiVersion, ContainerGroup, ContainerGroupProperties, OsType};

use super::codes::Code;
use super::rules::{DocumentKind, Rules, Severity};

/// What every rule gets: the group, the rules, and where to report.
#[derive(Debug)]
pub(super) struct Check<'a> {
    pub(super) group: &'a ContainerGroup,
    pub(super) rules: &'a Rules,
    /// The names of the group's volumes.
    pub(super) volume_names: BTreeSet<&'a str>,
    /// The names of the group's secret references.
    pub(super) secret_names: BTreeSet<&'a str>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(super) fn new(group: &'a ContainerGroup, rules: &'a Rules) -> Self {
        let properties = &group.properties;
        let volumes = properties.volumes.iter();
        let secrets = properties.secret_references.iter();
        Self {
            group,
            rules,
            volume_names: volumes.map(|v| v.name.as_str()).collect(),
            secret_names: secrets.map(|r| r.name.as_str()).collect(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn problem(&mut self, code: Code, path: &Path, message: impl Into<String>) {
        self.problems
            .push(Problem::new(code.name, path.0.clone(), message));
    }

    pub(super) fn warning(&mut self, code: Code, path: &Path, message: impl Into<String>) {
        self.warnings
            .push(Problem::new(code.name, path.0.clone(), message));
    }

    pub(super) fn report(
        &mut self,
        severity: Severity,
        code: Code,
        path: &Path,
        message: impl Into<String>,
    ) {
        match severity {
            Severity::Refuse => self.problem(code, path, message),
            Severity::Warn => self.warning(code, path, message),
        }
    }

    /// The required property of an object, in the words of ACI's deserialiser.
    pub(super) fn missing(&mut self, object: &Path, property: &str) {
        let message = format!("Required property '{property}' not found in JSON. Path '{object}'.");
        self.problem(
            super::codes::INVALID_REQUEST_CONTENT,
            &object.name(property),
            message,
        );
    }

    pub(super) fn properties(&self) -> &'a ContainerGroupProperties {
        &self.group.properties
    }

    /// The group's name as ACI's messages show it.
    pub(super) fn group_name(&self) -> String {
        if self.group.name.is_empty() {
            "<null>".to_owned()
        } else {
            shown(&self.group.name)
        }
    }

    /// The api-version that the document names, or that of the rules.
    pub(super) fn api_version(&self) -> ApiVersion {
        let named = self.group.api_version.as_deref();
        let named = named.and_then(|version| version.parse().ok());
        named.unwrap_or(self.rules.api_version)
    }

    pub(super) fn is_reply(&self) -> bool {
        self.rules.kind == DocumentKind::Reply
    }

    /// Whether a group will add what is not here.
    pub(super) fn is_profile(&self) -> bool {
        self.rules.kind == DocumentKind::Profile
    }

    pub(super) fn is_windows(&self) -> bool {
        self.properties().os_type == Some(OsType::Windows)
    }

    /// Whether the group takes what it does not say from a container group profile.
    pub(super) fn has_profile(&self) -> bool {
        let profile = self.properties().container_group_profile.as_ref();
        profile.is_some_and(|p| p.id.is_some())
    }

    pub(super) fn in_virtual_network(&self) -> bool {
        let properties = self.properties();
        !properties.subnet_ids.is_empty() || properties.network_profile.is_some()
    }
}

/// A JSON path such as `properties.containers[0].name`.
#[derive(Clone, Debug)]
pub(super) struct Path(String);

impl Path {
    /// The whole document.
    pub(super) fn root() -> Self {
        Self(String::new())
    }

    /// `properties.<name>`.
    pub(super) fn properties(name: &str) -> Self {
        Self("properties".to_owned()).name(name)
    }

    /// One property deeper.
    pub(super) fn name(&self, name: &str) -> Self {
        let mut path = self.0.clone();
        Step::Name(name).append_to(&mut path);
        Self(path)
    }

    /// One element deeper.
    pub(super) fn index(&self, index: usize) -> Self {
        let mut path = self.0.clone();
        Step::Index(index).append_to(&mut path);
        Self(path)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest value shown in a message, in characters.
const SHOWN: usize = 80;

/// A value for a message: short, in one line. Never for secrets.
pub(super) fn shown(value: &str) -> String {
    let mut text = String::new();
    for (i, c) in value.chars().enumerate() {
        if i == SHOWN {
            text.push('…');
            break;
        }
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// Decodes base64 as .NET does: padding required, white space between characters allowed.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD
        .decode(compact)
        .ok()
}

/// The positions of values that stood in the list before, each with the first position of its value.
pub(super) fn repeated<T: Ord>(values: impl IntoIterator<Item = T>) -> Vec<(usize, usize)> {
    let mut first = BTreeMap::new();
    let mut repeats = Vec::new();
    for (i, value) in values.into_iter().enumerate() {
        match first.entry(value) {
            Entry::Vacant(place) => {
                place.insert(i);
            }
            Entry::Occupied(place) => repeats.push((i, *place.get())),
        }
    }
    repeats
}

/// An ARM resource id of the given type, such as `Microsoft.Network/virtualNetworks/subnets`.
pub(super) fn is_resource_id(id: &str, resource_type: &str) -> bool {
    let mut types = resource_type.split('/');
    let provider = types.next().unwrap_or_default();
    let parts: Vec<&str> = id.split('/').collect();
    let head = [
        "",
        "subscriptions",
        "",
        "resourceGroups",
        "",
        "providers",
        provider,
    ];
    let types: Vec<&str> = types.collect();
    if parts.len() != head.len() + 2 * types.len() {
        return false;
    }
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')'))
    };
    let fixed = parts
        .iter()
        .zip(head)
        .enumerate()
        .all(|(i, (part, wanted))| {
            if i == 2 || i == 4 {
                plain(part)
            } else {
                part.eq_ignore_ascii_case(wanted)
            }
        });
    let tail = parts[head.len()..].chunks(2).zip(types);
    fixed
        && tail
            .into_iter()
            .all(|(pair, wanted)| pair[0].eq_ignore_ascii_case(wanted) && plain(pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_ids_are_told_apart() {
        let subnet = "Microsoft.Network/virtualNetworks/subnets";
        let id = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/s1";
        assert!(is_resource_id(id, subnet) && is_resource_id(&id.to_lowercase(), subnet));
        for bad in [
            "",
            "subnet",
            "/subscriptions//resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/s1",
            "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v",
            "/subscriptions/<id>/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/s1",
            "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/s1/",
            "[resourceId('Microsoft.Network/virtualNetworks/subnets', 'v', 's')]",
        ] {
            assert!(!is_resource_id(bad, subnet), "{bad}");
        }
    }

    #[test]
    fn values_are_shown_short_and_in_one_line() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(90)).chars().count(), 81);
    }

    #[test]
    fn base64_is_read_as_dotnet_reads_it() {
        assert_eq!(base64("aGVs\n bG8=").as_deref(), Some(b"hello".as_slice()));
        assert_eq!(base64("aGVsbG8"), None);
        assert_eq!(base64("a*b="), None);
    }
}
