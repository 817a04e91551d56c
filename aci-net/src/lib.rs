//! Networks of container groups: addresses, names and rules.
//!
//! Three drivers implement [`NetworkDriver`](aci_core::contract::NetworkDriver):
//!
//! | driver | needs | gives |
//! |---|---|---|
//! | [`BridgeNetwork`] | `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` (root) | an address for each group, reached by the host and by other groups |
//! | [`UserModeNetwork`] | `pasta` (Debian package `passt`) and `/dev/net/tun` | the way out, the host's resolver, ports published from 1024 up |
//! | [`LoopbackNetwork`] | nothing | loopback inside each group |
//!
//! What a driver lacks here and now, and what would bring it, is in its
//! [`NetworkCapability`](aci_core::contract::NetworkCapability).
//!
//! [`BridgeNetwork`] changes the kernel through netlink sockets only; no program is run and none need
//! be installed. [`UserModeNetwork`] runs one `pasta` for each group.
//!
//! # Names
//!
//! [`BridgeNetwork`] answers DNS on the second address of each subnet, the host's, by UDP and TCP:
//!
//! | name | leads to | for |
//! |---|---|---|
//! | `<label>[.<hash>].<region>.<zone>` | the group with this `dnsNameLabel` | everybody who is answered |
//! | `<group>`, `<group>.groups.<zone>` | the group, in one's own resource group | groups of one virtual network, and the host |
//! | `<group>.<resource group>.groups.<zone>` | the group, in one's own subscription | the same |
//! | an address of the networks, reversed | the group's name | everybody who is answered |
//!
//! The zone is `aci.internal` unless [`BridgeOptions::zone`] says otherwise; a resource group is
//! written with hyphens for what host names cannot have. Everything else is asked of the host's
//! resolvers. Answered is who sends from an address of the networks; others, zone transfers and
//! updates are refused. A group with `dnsConfig` asks its own servers instead, as in ACI. Names are
//! answered while a program has the network open: a group that outlives its program resolves
//! nothing until the next one opens.
//!
//! # Observability
//!
//! Spans (`tracing`): `network.open`, `network.attach`, `network.set_ready`, `network.detach`, with
//! the sandbox's id. Events: `info` for what opening mended, `warn` for a journal that a crash cut
//! off, `error` for what could not be undone.
//!
//! | metric | kind | what |
//! |---|---|---|
//! | `aci_net_attachments` | gauge | groups with a network |
//! | `aci_net_addresses` | gauge | addresses in use |
//! | `aci_net_attach_seconds` | histogram | from the start of a batch to an attachment's answer |
//! | `aci_net_detach_seconds` | histogram | the same for detachments |
//! | `aci_net_refused_total` | counter | attachments that failed |
//! | `aci_net_names_total` | counter | questions that were answered, by `us` or by `others` |
//! | `aci_net_names_dropped_total` | counter | questions beyond 2,000 a second of one sender |
//! | `aci_net_mended_total` | counter | things that opening removed or undid |
#![forbid(unsafe_code)]

mod bridge;
mod dns;
mod error;
mod ipam;
mod loopback;
mod netlink;
mod resolv;
mod usermode;

pub use bridge::{
    AttachmentReport, BridgeNetwork, BridgeOptions, Collected, NetworkReport, NetworkUse,
};
pub use ipam::{
    Access, AddressPrefix, Bandwidth, DEFAULT_RANGES, Direction, NextHop, PortRange, RouteTable,
    RuleProtocol, SERVICE_ADDRESS, SecurityGroup, SecurityRule, Subnet, VirtualNetwork,
};
pub use loopback::LoopbackNetwork;
pub use usermode::{UserModeNetwork, UserModeOptions};
