//! The names and tags of our kernel objects; all follow from the state directory's random number
//! and the sandbox's id, so that they are known before they are made and found after a crash.

use aci_core::id::SandboxId;
use sha2::{Digest, Sha256};

use crate::ipam::Family;
use crate::netlink::route::{Link, OWN_PROTOCOL, Route};

/// Marks groups of links that are in use.
pub(super) const GROUP_LIVE: u32 = 0x6100_0000;
/// The bits that tell what a group of links is; the others tell whose.
pub(super) const GROUP_KIND: u32 = 0xff00_0000;
/// Marks groups of links that are about to be deleted.
const GROUP_DOOMED: u32 = 0x6200_0000;
/// What every name of ours begins with.
const STEM: &str = "aci";
/// What the name of the bridge begins with.
const ANCHOR: &str = "aci-gw";

/// Names and tags of one driver over one state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    instance: String,
}

const fn uplink_mark(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4:",
        Family::V6 => "v6:",
    }
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Names {
    /// Names for a state directory with this random text.
    pub(crate) fn new(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
        }
    }

    /// The host's side of a sandbox's pair: `aci` and 48 bits, as names have at most 15 characters.
    pub(crate) fn link(&self, sandbox: &SandboxId) -> String {
        format!(
            "{STEM}{}",
            hex(&digest(&[&self.instance, "link", sandbox.as_str()])[..6])
        )
    }

    /// The link through which goes what a sandbox sends, if that is limited.
    pub(crate) fn shaper(&self, sandbox: &SandboxId) -> String {
        format!(
            "{STEM}{}",
            hex(&digest(&[&self.instance, "shaper", sandbox.as_str()])[..6])
        )
    }

    /// The bridge that holds the gateways' addresses.
    pub(crate) fn anchor(&self) -> String {
        format!("{ANCHOR}{}", hex(&digest(&[&self.instance, "anchor"])[..4]))
    }

    /// The name of the firewall's table.
    pub(crate) fn table(&self) -> String {
        format!("{STEM}-net-{}", self.instance)
    }

    /// The MAC addresses of the host's side and the group's side: locally administered, unicast.
    pub(crate) fn macs(&self, sandbox: &SandboxId) -> ([u8; 6], [u8; 6]) {
        let hash = digest(&[&self.instance, "mac", sandbox.as_str()]);
        let mac = |part: &[u8]| [0x02, part[0], part[1], part[2], part[3], part[4]];
        (mac(&hash[..5]), mac(&hash[5..10]))
    }

    /// The index of our first link: far from those that the kernel gives out, and from another
    /// driver's.
    pub(crate) fn first_index(&self) -> u32 {
        let hash = digest(&[&self.instance, "index"]);
        0x1000_0000 | u32::from_be_bytes([0, hash[0], hash[1], 0]) << 4
    }

    fn group(&self, base: u32) -> u32 {
        let hash = digest(&[&self.instance, "group"]);
        base | u32::from_be_bytes([0, hash[0], hash[1], hash[2]])
    }

    /// The link group of our links.
    pub(crate) fn live_group(&self) -> u32 {
        self.group(GROUP_LIVE)
    }

    /// The link group of our links that are about to be deleted as one act.
    pub(crate) fn doomed_group(&self) -> u32 {
        self.group(GROUP_DOOMED)
    }

    /// The metric of our routes. There is one route to each of our addresses, so it decides nothing;
    /// it tells whose route it is.
    pub(crate) fn metric(&self) -> u32 {
        self.live_group()
    }

    /// Whether a route is ours.
    pub(crate) fn owns_route(&self, route: &Route) -> bool {
        route.protocol == OWN_PROTOCOL && route.metric == self.metric()
    }

    /// The alias of a sandbox's link, also for people who read a list of links.
    pub(crate) fn alias(&self, sandbox: &SandboxId) -> String {
        format!("aci-net {} {sandbox}", self.instance)
    }

    /// The alias of the bridge. It tells other programs like this one which links of the host forward
    /// for our groups, so that who closes last switches that off.
    pub(crate) fn anchor_alias(&self, uplinks: &[(Family, String)]) -> String {
        let mut alias = format!("aci-net {} gateway", self.instance);
        for (family, link) in uplinks {
            let word = format!(" {}{link}", uplink_mark(*family));
            // The kernel keeps 255 bytes.
            if alias.len() + word.len() <= 255 {
                alias.push_str(&word);
            }
        }
        alias
    }

    /// The links that the alias of another one's bridge tells of; none for other links.
    pub(crate) fn uplinks_of_other(&self, link: &Link) -> Vec<(Family, String)> {
        let is_other = link.group & GROUP_KIND == GROUP_LIVE && link.group != self.live_group();
        if !is_other || !link.name.starts_with(ANCHOR) {
            return Vec::new();
        }
        let words = link.alias.split(' ');
        let of = |word: &str| {
            let mut families = Family::BOTH.into_iter();
            families.find_map(|f| Some((f, word.strip_prefix(uplink_mark(f))?.to_owned())))
        };
        words.filter_map(of).collect()
    }

    /// Whether a link is ours: its group is, and its name begins as ours do. The alias cannot tell,
    /// because it is set after the link was made.
    pub(crate) fn owns(&self, name: &str, group: u32) -> bool {
        name.starts_with(STEM) && (group == self.live_group() || group == self.doomed_group())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn one_network_reads_which_links_another_one_uses() {
        let (names, other) = (
            Names::new("0123456789abcdef"),
            Names::new("fedcba9876543210"),
        );
        let uplinks = vec![
            (Family::V4, "eth0".to_owned()),
            (Family::V6, "br-lan,1".to_owned()),
        ];
        let link = Link {
            name: names.anchor(),
            group: names.live_group(),
            alias: names.anchor_alias(&uplinks),
            ..Link::default()
        };
        assert_eq!(other.uplinks_of_other(&link), uplinks);
        assert_eq!(names.uplinks_of_other(&link), []);
        let stranger = Link { group: 0, ..link };
        assert_eq!(other.uplinks_of_other(&stranger), []);
        let many: Vec<_> = (0..99).map(|i| (Family::V4, format!("eth{i}"))).collect();
        assert!(names.anchor_alias(&many).len() <= 255);
    }

    #[test]
    fn names_fit_the_kernel_and_differ() {
        let names = Names::new("0123456789abcdef");
        let other = Names::new("fedcba9876543210");
        assert!(names.anchor().len() <= 15);
        assert_ne!(names.live_group(), other.live_group());
        assert_ne!(names.live_group(), names.doomed_group());
        let mut seen = HashSet::new();
        for i in 0..1000 {
            let id: SandboxId = format!("web-{i}").parse().unwrap();
            let link = names.link(&id);
            assert_eq!(link.len(), 15);
            assert_eq!(link, names.link(&id));
            assert_ne!(link, other.link(&id));
            assert!(names.owns(&link, names.live_group()));
            assert!(!other.owns(&link, names.live_group()));
            assert!(seen.insert(link));
            let (host, group) = names.macs(&id);
            assert_ne!(host, group);
            assert_eq!((host[0], group[0]), (2, 2));
        }
    }
}
