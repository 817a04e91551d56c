//! The floor: the messages that no way around this kernel does without, in as few calls as it takes.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use aci_benches::contest::{Contestant, Sample, milliseconds};
use async_trait::async_trait;
use nix::sched::{CloneFlags, setns};

use crate::netlink::{Socket, nft, route};
use crate::{ATTACH, DETACH, namespace, refused};

const TABLE: &str = "aci-bench-floor";
const NAME: &str = "floor0";
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 0, 1));
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 91, 0, 4));
const METRIC: u32 = 91;
/// A fixed index need not be asked for.
const INDEX: u32 = 0x2000_0000;
const INSIDE: u32 = 0x2000_0001;

pub(crate) struct Floor {
    links: Socket,
    rules: Socket,
    home: OwnedFd,
}

fn set() -> nft::Set {
    nft::Set {
        name: TABLE.into(),
        id: 1,
        key: (7, 4),
        value: None,
        spans: nft::Spans::No,
    }
}

impl Floor {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut this = Self {
            links: Socket::open(0)?,
            rules: Socket::open(nft::PROTOCOL)?,
            home: std::fs::File::open("/proc/thread-self/ns/net")?.into(),
        };
        let gateway = vec![route::new_address(1, GATEWAY)];
        this.links.all(gateway).map_err(refused)?;
        let base = vec![nft::new_table(TABLE), nft::new_set(TABLE, &set())];
        this.transaction(base)?;
        Ok(this)
    }

    fn transaction(&mut self, requests: Vec<crate::netlink::codec::Request>) -> anyhow::Result<()> {
        let done = self.rules.transaction(nft::begin(), requests, nft::end());
        done.map_err(refused)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.transaction(vec![nft::delete_table(TABLE)]);
    }
}

fn element() -> Vec<nft::Element> {
    vec![nft::Element::key(vec![10, 91, 0, 4])]
}

#[async_trait(?Send)]
impl Contestant for Floor {
    fn name(&self) -> &str {
        "floor"
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        let net = namespace()?;
        let (mac, peer_mac) = ([2, 0, 0, 9, 1, 1], [2, 0, 0, 9, 1, 2]);
        let begin = Instant::now();
        let pair = route::Pair {
            name: NAME,
            index: INDEX,
            group: 0,
            mac,
            peer: "eth0",
            peer_index: INSIDE,
            peer_mac,
            namespace: net.as_fd(),
            mtu: 1500,
        };
        self.links.one(route::new_pair(&pair)).map_err(refused)?;
        let host = vec![
            route::set_up(INDEX),
            route::new_neighbour(INDEX, GROUP, peer_mac),
            route::route_to_link(GROUP, INDEX, GATEWAY, METRIC),
        ];
        self.links.all(host).map_err(refused)?;
        setns(net.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let inside = Socket::open(0);
        setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let group = vec![
            route::set_up(INSIDE),
            route::new_address(INSIDE, GROUP),
            route::new_neighbour(INSIDE, GATEWAY, mac),
            route::default_route(GATEWAY, INSIDE),
        ];
        inside?.all(group).map_err(refused)?;
        self.transaction(vec![nft::add_elements(TABLE, TABLE, &element())])?;
        let attach = begin.elapsed();
        let begin = Instant::now();
        self.transaction(vec![nft::delete_elements(TABLE, TABLE, &element())])?;
        self.links.one(route::delete_link(INDEX)).map_err(refused)?;
        let detach = begin.elapsed();
        Ok(vec![
            (ATTACH, milliseconds(attach)),
            (DETACH, milliseconds(detach)),
        ])
    }
}
