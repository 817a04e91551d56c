//! Which names there are: a value to which groups are added and from which they are taken, so that
//! this takes as long with 250 groups as with one.
//!
//! | name | who sees it |
//! |---|---|
//! | `<label>[.<hash>].<region>.<zone>` | everybody |
//! | `<group>`, `<group>.groups.<zone>` | groups of the same resource group and subscription, and the host |
//! | `<group>.<resource group>.groups.<zone>` | groups of the same subscription, and the host |
//! | `<address>.in-addr.arpa`, `.ip6.arpa` | everybody |

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use hickory_proto::rr::Name;
use ipnet::IpNet;

/// The label below which groups have their own names.
const GROUPS: &str = "groups";

/// A group with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The virtual network; groups of others do not see its own name.
    pub(crate) network: String,
    /// The subscription.
    pub(crate) subscription: String,
    /// The resource group.
    pub(crate) resource_group: String,
    /// The host name.
    pub(crate) hostname: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The whole name of its label.
    pub(crate) fqdn: Option<String>,
    /// What that name leads to.
    pub(crate) shown: Vec<IpAddr>,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It has these addresses; with none the name exists all the same.
    Addresses(Vec<IpAddr>),
    /// It is an address, and this is its name.
    Pointer(Name),
    /// It would have to be known here and is not.
    Nothing,
    /// Others know.
    Elsewhere,
}

/// All names at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    apex: String,
    ranges: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    /// By the first address of each.
    members: BTreeMap<IpAddr, Member>,
    /// Every address, with the first one of who has it.
    by_address: HashMap<IpAddr, IpAddr>,
    by_label: HashMap<String, IpAddr>,
}

impl Zone {
    /// A zone with these groups; `ranges` are the networks that may ask, `gateways` the host's
    /// addresses in them.
    pub(crate) fn new(
        apex: &str,
        ranges: Vec<IpNet>,
        gateways: Vec<IpAddr>,
        members: Vec<Member>,
    ) -> Self {
        let mut zone = Self {
            apex: apex.trim_end_matches('.').to_ascii_lowercase(),
            ranges,
            gateways,
            members: BTreeMap::new(),
            by_address: HashMap::new(),
            by_label: HashMap::new(),
        };
        members.into_iter().for_each(|member| zone.add(member));
        zone
    }

    /// Adds a group; one without an address cannot be found.
    pub(crate) fn add(&mut self, member: Member) {
        let Some(first) = member.addresses.first().copied() else {
            return;
        };
        for address in &member.addresses {
            self.by_address.insert(*address, first);
        }
        if let Some(fqdn) = &member.fqdn {
            self.by_label.insert(fqdn.to_ascii_lowercase(), first);
        }
        self.members.insert(first, member);
    }

    /// Takes the group out that has this as its first address.
    pub(crate) fn remove(&mut self, first: IpAddr) {
        let Some(member) = self.members.remove(&first) else {
            return;
        };
        for address in &member.addresses {
            self.by_address.remove(address);
        }
        if let Some(fqdn) = &member.fqdn {
            self.by_label.remove(&fqdn.to_ascii_lowercase());
        }
    }

    /// Whether there is no group.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether one who sends from this address is answered.
    pub(crate) fn serves(&self, source: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&source))
    }

    /// The zone's name.
    pub(crate) fn apex(&self) -> &str {
        &self.apex
    }

    /// What is known of a name, for one who asks from this address.
    pub(crate) fn find(&self, name: &Name, asker: IpAddr) -> Found {
        let text = name.to_lowercase().to_ascii();
        let text = text.trim_end_matches('.');
        if let Some(found) = self.address(text, name) {
            return found;
        }
        let inside = text
            .strip_suffix(self.apex.as_str())
            .map(|rest| rest.strip_suffix('.').unwrap_or(rest));
        match inside {
            // `xaci.internal` ends in the same letters and is another name.
            Some(rest)
                if text.len() == self.apex.len() + rest.len() + usize::from(!rest.is_empty()) =>
            {
                self.own(text, rest, asker)
            }
            _ if !text.is_empty() && !text.contains('.') => match self.group(text, None, asker) {
                Found::Nothing => Found::Elsewhere,
                found => found,
            },
            _ => Found::Elsewhere,
        }
    }

    fn address(&self, text: &str, name: &Name) -> Option<Found> {
        if !text.ends_with(".arpa") {
            return None;
        }
        let net = name.parse_arpa_name().ok()?;
        if net.prefix_len() != net.max_prefix_len() || !self.serves(net.addr()) {
            return None;
        }
        let owner = self.by_address.get(&net.addr())?;
        let member = self.members.get(owner)?;
        let name = member
            .fqdn
            .clone()
            .unwrap_or_else(|| format!("{}.{GROUPS}.{}", member.hostname, self.apex));
        Some(Name::from_ascii(format!("{name}.")).map_or(Found::Nothing, Found::Pointer))
    }

    /// A name below the apex, which `rest` stands before.
    fn own(&self, text: &str, rest: &str, asker: IpAddr) -> Found {
        if rest.is_empty() || rest == GROUPS {
            return Found::Addresses(Vec::new());
        }
        if let Some(before) = rest.strip_suffix(GROUPS).and_then(|r| r.strip_suffix('.')) {
            return match before.split_once('.') {
                None => match self.group(before, None, asker) {
                    Found::Nothing if self.is_resource_group(before, asker) => {
                        Found::Addresses(Vec::new())
                    }
                    found => found,
                },
                Some((host, resource_group)) => self.group(host, Some(resource_group), asker),
            };
        }
        let labelled = self.by_label.get(text);
        if let Some(member) = labelled.and_then(|first| self.members.get(first)) {
            return Found::Addresses(member.shown.clone());
        }
        // A part of the way to a name exists too (RFC 8020).
        let below = |name: &String| {
            name.strip_suffix(text)
                .is_some_and(|rest| rest.ends_with('.'))
        };
        if self.by_label.keys().any(below) {
            return Found::Addresses(Vec::new());
        }
        Found::Nothing
    }

    /// Whether `member` is seen by who asks; the host sees all.
    fn sees(&self, asker: IpAddr, member: &Member, resource_group: Option<&str>) -> bool {
        if self.gateways.contains(&asker) {
            return resource_group.is_none_or(|wanted| label(&member.resource_group) == wanted);
        }
        let first = self.by_address.get(&asker);
        let Some(own) = first.and_then(|first| self.members.get(first)) else {
            return false;
        };
        own.network == member.network
            && own.subscription == member.subscription
            && match resource_group {
                None => own.resource_group == member.resource_group,
                Some(wanted) => label(&member.resource_group) == wanted,
            }
    }

    fn group(&self, host: &str, resource_group: Option<&str>, asker: IpAddr) -> Found {
        let mut named = self
            .members
            .values()
            .filter(|m| m.hostname == host && self.sees(asker, m, resource_group))
            .peekable();
        if named.peek().is_none() {
            return Found::Nothing;
        }
        Found::Addresses(named.flat_map(|m| m.addresses.iter().copied()).collect())
    }

    fn is_resource_group(&self, text: &str, asker: IpAddr) -> bool {
        let seen = |m: &&Member| self.sees(asker, m, Some(text));
        self.members.values().any(|m| seen(&m))
    }
}

/// The search domain that lets groups find each other by their names alone.
pub(crate) fn search(apex: &str) -> String {
    format!("{GROUPS}.{}", apex.trim_end_matches('.'))
}

/// A resource group's name as a label: what host names cannot have becomes a hyphen.
fn label(resource_group: &str) -> String {
    let text: String = resource_group
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    text.trim_matches('-').to_owned()
}
