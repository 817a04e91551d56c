//! The name that a `dnsNameLabel` becomes: `<label>[.<hash>].<region>.<zone>`.
//!
//! Azure states which groups may have a name again (the scope), not how it makes the hash; ours is
//! 80 bits of a SHA-256 over what the scope names, so that it is the same on every host
//! and after every restart.

use sha2::{Digest, Sha256};

use crate::id::{GroupRef, SandboxId};
use crate::model::{DnsNameLabelReusePolicy, IpAddress};

/// How many characters a hash has, as Azure's.
const HASH: usize = 16;
/// Letters that a hash is written in; 32 of those that host names may have.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// The tenant of programs that know none.
pub const DEFAULT_TENANT: &str = "00000000-0000-0000-0000-000000000000";

/// Who asks for a name.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The tenant's id.
    pub tenant: &'a str,
    /// The group.
    pub group: &'a GroupRef,
    /// Its present deployment.
    pub sandbox: &'a SandboxId,
}

/// The name without its zone: `<label>.<region>`, with a hash between the two for all scopes but
/// `Unsecure`. `None` if the address has no label.
///
/// ```
/// use aci_core::dns_label::{self, DEFAULT_TENANT, Owner};
/// use aci_core::model::IpAddress;
///
/// let address = IpAddress { dns_name_label: Some("my-web".to_owned()), ..IpAddress::default() };
/// let (group, sandbox) = ("web".into(), "web-1".parse()?);
/// let owner = Owner { tenant: DEFAULT_TENANT, group: &group, sandbox: &sandbox };
/// let name = dns_label::name(&address, "West Europe", &owner);
/// assert_eq!(name.as_deref(), Some("my-web.westeurope"));
/// # Ok::<(), aci_core::error::Error>(())
/// ```
#[must_use]
pub fn name(address: &IpAddress, location: &str, owner: &Owner<'_>) -> Option<String> {
    let label = address.dns_name_label.as_ref()?.to_ascii_lowercase();
    let region = region(location);
    Some(
        match scope(address.dns_name_label_reuse_policy.as_ref(), owner) {
            None => format!("{label}.{region}"),
            Some(parts) => format!("{label}.{}.{region}", hash(&label, &parts)),
        },
    )
}

/// What the hash of a scope is made of; `None` for `Unsecure`.
fn scope<'a>(policy: Option<&DnsNameLabelReusePolicy>, owner: &Owner<'a>) -> Option<Vec<&'a str>> {
    let (tenant, group) = (owner.tenant, owner.group);
    match policy {
        // Other values are refused when a document is validated.
        None | Some(DnsNameLabelReusePolicy::Unsecure | DnsNameLabelReusePolicy::Other(_)) => None,
        Some(DnsNameLabelReusePolicy::TenantReuse) => Some(vec!["tenant", tenant]),
        Some(DnsNameLabelReusePolicy::SubscriptionReuse) => {
            Some(vec!["subscription", tenant, group.subscription()])
        }
        Some(DnsNameLabelReusePolicy::ResourceGroupReuse) => Some(vec![
            "resourceGroup",
            tenant,
            group.subscription(),
            group.resource_group(),
        ]),
        // A sandbox's id never comes again.
        Some(DnsNameLabelReusePolicy::Noreuse) => Some(vec!["none", owner.sandbox.as_str()]),
    }
}

fn hash(label: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(&label).chain(parts) {
        // ARM's ids compare without regard to case.
        let part = part.to_ascii_lowercase();
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let bits = digest
        .iter()
        .take(16)
        .fold(0u128, |all, byte| all << 8 | u128::from(*byte));
    let letter = |at: usize| {
        let index = usize::try_from(bits >> (at * 5) & 31).unwrap_or(0);
        // The first is a letter, as Azure's is.
        let index = if at == 0 { index % 26 } else { index };
        char::from(LETTERS[index])
    };
    (0..HASH).map(letter).collect()
}

/// A location as part of a name: `West Europe` is `westeurope`, as ARM writes it.
#[must_use]
pub fn region(location: &str) -> String {
    let text: String = location
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .map(|c| c.to_ascii_lowercase())
        .take(63)
        .collect();
    let text = text.trim_matches('-');
    if text.is_empty() {
        "local".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(policy: &str) -> IpAddress {
        let policy = serde_json::from_value(policy.into()).unwrap();
        IpAddress {
            dns_name_label: Some("my-web".to_owned()),
            dns_name_label_reuse_policy: Some(policy),
            ..IpAddress::default()
        }
    }

    fn named(policy: &str, tenant: &str, group: [&str; 3], sandbox: &str) -> String {
        let owner = Owner {
            tenant,
            group: &GroupRef::new(group[0], group[1], group[2]),
            sandbox: &sandbox.parse().unwrap(),
        };
        name(&address(policy), "westeurope", &owner).unwrap()
    }

    /// Each scope: the same for whom it names, another for the next one out.
    #[test]
    fn the_five_scopes() {
        let unsecure = |tenant, group, sandbox| named("Unsecure", tenant, group, sandbox);
        assert_eq!(unsecure("t", ["s", "r", "g"], "x-1"), "my-web.westeurope");
        let base = ("t", ["s", "r", "g"], "x-1");
        let steps = [
            ("t", ["s", "r", "h"], "x-2"),
            ("t", ["s", "q", "g"], "x-3"),
            ("t", ["p", "r", "g"], "x-4"),
            ("u", ["s", "r", "g"], "x-5"),
        ];
        // How many of the steps keep the name.
        for (policy, keep) in [
            ("Unsecure", 4),
            ("TenantReuse", 3),
            ("SubscriptionReuse", 2),
            ("ResourceGroupReuse", 1),
            ("Noreuse", 0),
        ] {
            let first = named(policy, base.0, base.1, base.2);
            for (at, step) in steps.iter().enumerate() {
                let other = named(policy, step.0, step.1, step.2);
                assert_eq!(first == other, at < keep, "{policy} {step:?}");
            }
        }
        // The form never changes: names outlive versions of this crate.
        assert_eq!(
            named("TenantReuse", DEFAULT_TENANT, ["s", "r", "g"], "x-1"),
            "my-web.q2wbtjyn3thy7oyb.westeurope"
        );
    }

    #[test]
    fn no_label_no_name_and_regions_as_arm_writes_them() {
        let owner = Owner {
            tenant: DEFAULT_TENANT,
            group: &"web".into(),
            sandbox: &"web-1".parse().unwrap(),
        };
        assert_eq!(name(&IpAddress::default(), "x", &owner), None);
        assert_eq!(region("West Europe"), "westeurope");
        assert_eq!(region("  "), "local");
        assert_eq!(region("-a.b-"), "ab");
    }

    proptest! {
        /// Whatever the ids hold, the hash is a host name's label.
        #[test]
        fn hashes_are_labels(tenant in ".*", sub in ".*", rg in ".*", which in 0usize..3) {
            let policy = ["TenantReuse", "SubscriptionReuse", "ResourceGroupReuse"][which];
            let name = named(policy, &tenant, [&sub, &rg, "g"], "x-1");
            let hash = name.split('.').nth(1).unwrap();
            prop_assert_eq!(hash.len(), HASH);
            prop_assert!(hash.starts_with(|c: char| c.is_ascii_lowercase()));
            prop_assert!(hash.bytes().all(|b| LETTERS.contains(&b)));
        }
    }
}
