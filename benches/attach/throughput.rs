//! How much passes: streams (TCP, which the kernel carries in packets of up to 64 KiB) and datagrams
//! (UDP, 1,472 bytes each), from one network namespace to another by several ways, in turns.
//!
//! | way | what is between |
//! |---|---|
//! | plain pair | one veth pair |
//! | plain routed | two pairs, and a namespace that forwards, without a rule |
//! | from the host | one pair of ours: the host to a group |
//! | between groups | two pairs of ours, and the host that forwards, with 0, 100 or 1,000 security rules |
//!
//! Sender and receiver are pinned to a core each. What has arrived is counted, so datagrams that were
//! lost on the way are not.

use std::any::Any;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aci_benches::contest::{Contestant, Sample, take_turns};
use aci_benches::report::{self, Comparison, Table};
use aci_core::contract::NetworkDriver;
use aci_net::{
    Access, BridgeNetwork, BridgeOptions, Direction, RuleProtocol, SecurityGroup, SecurityRule,
    Subnet, VirtualNetwork,
};
use anyhow::Context as _;
use async_trait::async_trait;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

use crate::netlink::{Socket, route};
use crate::{boxed, namespace, ours, refused};

const TCP: &str = "tcp";
const UDP: &str = "udp";
const PORT: u16 = 5201;
/// What is not counted at the beginning, and what is.
const WARM_UP: Duration = Duration::from_millis(60);
const COUNTED: Duration = Duration::from_millis(250);
/// The payload of the largest datagram that an Ethernet packet carries.
const DATAGRAM: usize = 1472;

/// A way from one namespace to another.
struct Way {
    name: String,
    from: Arc<OwnedFd>,
    to: Arc<OwnedFd>,
    address: IpAddr,
    _kept: Box<dyn Any>,
}

/// Runs a function in a namespace on a thread of its own, pinned to a core where there are several.
fn within<T: Send + 'static>(
    namespace: &OwnedFd,
    core: usize,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<thread::JoinHandle<anyhow::Result<T>>> {
    let namespace = namespace.try_clone()?;
    Ok(thread::spawn(move || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut set = CpuSet::new();
        set.set(core % cores)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
        work()
    }))
}

fn join<T>(thread: thread::JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

/// Counts what `receive` gets, in Gbit/s.
fn count(mut receive: impl FnMut() -> std::io::Result<usize>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    while begin.elapsed() < WARM_UP {
        receive()?;
    }
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < COUNTED {
        bytes += receive()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let bits = bytes as f64 * 8.0;
    Ok(bits / begin.elapsed().as_secs_f64() / 1e9)
}

impl Way {
    fn stream(&self) -> anyhow::Result<f64> {
        let address = SocketAddr::new(self.address, PORT);
        let listener = join(within(&self.to, 1, move || {
            Ok(TcpListener::bind(address)?)
        })?)?;
        let connected = within(&self.from, 0, move || {
            Ok(TcpStream::connect_timeout(
                &address,
                Duration::from_secs(2),
            )?)
        })?;
        let mut output = join(connected)?;
        let (mut input, _) = listener.accept()?;
        let receiver = within(&self.to, 1, move || {
            let mut buffer = vec![0; 256 * 1024];
            count(|| input.read(&mut buffer))
        })?;
        let sender = within(&self.from, 0, move || {
            let data = vec![0; 256 * 1024];
            // Until the receiver has enough and closes.
            while output.write_all(&data).is_ok() {}
            Ok(())
        })?;
        let rate = join(receiver)?;
        join(sender)?;
        Ok(rate)
    }

    fn datagrams(&self) -> anyhow::Result<f64> {
        let address = SocketAddr::new(self.address, PORT);
        let socket = join(within(&self.to, 1, move || Ok(UdpSocket::bind(address)?))?)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let receiver = within(&self.to, 1, move || {
            let mut buffer = vec![0; 2048];
            count(|| socket.recv(&mut buffer))
        })?;
        let sender = within(&self.from, 0, move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(address)?;
            let data = [0; DATAGRAM];
            let begin = Instant::now();
            while begin.elapsed() < WARM_UP + COUNTED + Duration::from_millis(100) {
                for _ in 0..64 {
                    // The receiver may have enough already.
                    let _ = socket.send(&data);
                }
            }
            Ok(())
        })?;
        let rate = join(receiver)?;
        join(sender)?;
        Ok(rate)
    }
}

#[async_trait(?Send)]
impl Contestant for Way {
    fn name(&self) -> &str {
        &self.name
    }

    fn required(&self) -> bool {
        true
    }

    async fn run(&mut self) -> anyhow::Result<Sample> {
        Ok(vec![(TCP, self.stream()?), (UDP, self.datagrams()?)])
    }
}

/// Joins two namespaces by a pair; each end knows the other one's address and how to reach it.
fn connect(
    one: &OwnedFd,
    other: &OwnedFd,
    name: &'static str,
    here: Ipv4Addr,
    there: Ipv4Addr,
    default: bool,
) -> anyhow::Result<()> {
    let (here, there) = (IpAddr::V4(here), IpAddr::V4(there));
    let (mac, peer_mac) = ([2, 0, 0, 9, 2, 1], [2, 0, 0, 9, 2, 2]);
    let far = other.try_clone()?;
    let near = within(one, 0, move || {
        let mut socket = Socket::open(0)?;
        let pair = route::Pair {
            name,
            index: 0,
            group: 0,
            mac,
            peer: "eth0",
            peer_index: 0,
            peer_mac,
            namespace: far.as_fd(),
            mtu: 1500,
        };
        socket.one(route::new_pair(&pair)).map_err(refused)?;
        let index = route::link(&mut socket, name).map_err(refused)?;
        let index = index.context("a pair that was just made")?.index;
        let requests = vec![
            route::set_up(index),
            route::new_address(index, here),
            route::new_neighbour(index, there, peer_mac),
            route::route_to_link(there, index, here, 5),
        ];
        socket.all(requests).map_err(refused)
    })?;
    join(near)?;
    let far = within(other, 0, move || {
        let mut socket = Socket::open(0)?;
        let index = route::link(&mut socket, "eth0").map_err(refused)?;
        let index = index.context("a pair that was just made")?.index;
        let mut requests = vec![
            route::set_up(index),
            route::new_address(index, there),
            route::new_neighbour(index, here, mac),
            route::route_to_link(here, index, there, 5),
        ];
        if default {
            requests.push(route::default_route(here, index));
        }
        socket.all(requests).map_err(refused)
    })?;
    join(far)
}

fn plain_pair() -> anyhow::Result<Way> {
    let (from, to) = (namespace()?, namespace()?);
    let [here, there] = [[10, 93, 0, 1], [10, 93, 0, 2]].map(Ipv4Addr::from);
    connect(&from, &to, "pair0", here, there, false)?;
    Ok(Way {
        name: "plain pair".to_owned(),
        from: Arc::new(from),
        to: Arc::new(to),
        address: there.into(),
        _kept: Box::new(()),
    })
}

fn plain_routed() -> anyhow::Result<Way> {
    let (from, middle, to) = (namespace()?, namespace()?, namespace()?);
    let forward = within(&middle, 0, || {
        Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)
    })?;
    join(forward)?;
    let [gateway, one, two] = [[10, 94, 0, 1], [10, 94, 0, 2], [10, 94, 0, 3]].map(Ipv4Addr::from);
    connect(&middle, &from, "one0", gateway, one, true)?;
    connect(&middle, &to, "two0", gateway, two, true)?;
    Ok(Way {
        name: "plain routed".to_owned(),
        from: Arc::new(from),
        to: Arc::new(to),
        address: two.into(),
        _kept: Box::new(middle),
    })
}

/// Rules that match nothing of what is sent here.
fn rules(number: u16) -> anyhow::Result<Vec<SecurityRule>> {
    let rule = |i: u16| {
        let [high, low] = i.to_be_bytes();
        let source = format!("203.{high}.{low}.0/24").parse()?;
        Ok(
            SecurityRule::new(format!("r{i}"), 100 + i, Direction::Inbound, Access::Deny)
                .protocol(RuleProtocol::Tcp)
                .source([source])
                .destination_ports([(1000 + i).into()]),
        )
    };
    (0..number).map(rule).collect()
}

/// From the host to a group, or from one group to another, behind so many rules.
async fn ours(between: bool, number: u16) -> anyhow::Result<Way> {
    let host = Arc::new(namespace()?);
    let directory = tempfile::tempdir()?;
    let range: ipnet::IpNet = "10.88.0.0/16".parse()?;
    let subnet = Subnet::new("default", vec![range])?
        .security_group(SecurityGroup::new("rules", rules(number)?)?);
    let options = BridgeOptions::new(directory.path())
        .host_namespace(host.try_clone()?)
        .network(VirtualNetwork::new("bench", vec![range], vec![subnet])?);
    let network = BridgeNetwork::open(options).await?;
    let (one, two) = (Arc::new(namespace()?), Arc::new(namespace()?));
    network.attach(ours::request("one", &one, None)?).await?;
    let to = network.attach(ours::request("two", &two, None)?).await?;
    let address = to.addresses.first().context("no address")?.addr();
    Ok(Way {
        name: if between {
            format!("between groups, {number} rules")
        } else {
            "from the host".to_owned()
        },
        from: if between { one } else { host },
        to: two,
        address,
        _kept: Box::new((network, directory)),
    })
}

pub(crate) async fn bench(runs: usize) -> anyhow::Result<()> {
    let mut ways = vec![plain_pair()?, plain_routed()?, ours(false, 0).await?];
    for number in [0, 100, 1000] {
        ways.push(ours(true, number).await?);
    }
    let before = report::load();
    let ways = ways.into_iter().map(boxed).collect();
    let series = take_turns(ways, 1, runs, Duration::from_millis(5)).await?;
    let load = [before, report::load()];
    println!("\n{}", report::machine());
    println!(
        "{runs} runs in turns; load before {before:?}, after {:?}\n",
        load[1]
    );
    let mut table = Table::new(&["Gbit/s", "median", "p10", "p90", "/ pair", "/ routed"]);
    for part in [TCP, UDP] {
        let plain = series.first().and_then(|s| s.summary(part));
        let routed = series.get(1).and_then(|s| s.summary(part));
        let (plain, routed) = plain.zip(routed).context("nobody ran")?;
        for (at, one) in series.iter().enumerate() {
            let ours = one.summary(part).context("nothing was measured")?;
            table.row(&[
                format!("{part}: {}", one.name),
                format!("{:.2}", ours.median),
                format!("{:.2}", ours.p10),
                format!("{:.2}", ours.p90),
                format!("{:.3}", ours.median / plain.median),
                format!("{:.3}", ours.median / routed.median),
            ]);
            if at < 2 {
                continue;
            }
            Comparison {
                name: format!("throughput-{part}-{}", one.name.replace([' ', ','], "-")),
                what: format!("{part} {}, more is better", one.name),
                ours,
                peer_name: "plain pair".to_owned(),
                peer: plain,
                unit: "Gbit/s",
                load,
            }
            .write(&report::directory())?;
        }
    }
    println!("{table}");
    println!("written to {}", report::directory().display());
    Ok(())
}
