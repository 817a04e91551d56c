//! How long it takes to give a group its network and to take it away, and how much passes through
//! it: in network namespaces of their own, so that nothing of the machine's network is touched.
//!
//! `cargo bench -p aci-benches --bench attach -- --runs 40 [--only attach|throughput]
//! [--rest MS]`; needs root. Before each run the machine rests for 25 ms, as it does between groups that
//! come one by one: then threads that wait are woken from a deeper sleep, which ours has two of and
//! the floor none. `--rest 0` shows groups that come one upon another.
//!
//! **attach**: ours beside netavark, the CNI reference plugins and the kernel's floor, in turns in one
//! run. The peers are netavark from its crate (`cargo install --root target/netavark --locked --bin
//! netavark netavark`, which needs Debian's protobuf-compiler) and the Debian packages netavark,
//! iptables, nftables and containernetworking-plugins; one that is missing is left out and named.
//! Every contestant is given a network namespace that is there already, and makes a veth pair with an
//! address, a default route, and one published TCP port; each has another group attached all the
//! time, so that what groups share stands. Ours journals before it acts and guards against forged
//! senders besides; the peers' time includes the starts of their programs, which is how they are
//! used. The floor sends the same kinds of messages (pair, addresses, neighbours, routes, one
//! firewall transaction) and keeps no journal.
//!
//! **throughput**: see [`throughput`].
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "the codec is that of aci-net")]

/// The same codec as ours, so that the floor differs in what it asks of the kernel only.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../aci-net/src/netlink/mod.rs"]
mod netlink;

mod floor;
mod ours;
mod peers;
mod throughput;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use aci_benches::contest::{Contestant, take_turns};
use aci_benches::report::{self, Comparison, Table};
use aci_benches::stats::Summary;
use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};

/// From the call until the network is there.
const ATTACH: &str = "attach";
/// From the call until nothing of it is left.
const DETACH: &str = "detach";
/// Groups that are attached to see whether time grows with their number.
const GROUPS: usize = 250;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("SKIPPED: it only runs as a bench (cargo bench)");
        return Ok(());
    }
    let number = |name: &str, usual: u32| match arguments.iter().position(|a| a == name) {
        Some(at) => {
            let text = arguments.get(at + 1).map_or("", String::as_str);
            text.parse()
                .with_context(|| format!("{name} '{text}': give a whole number, 0 or more"))
        }
        None => Ok(usual),
    };
    let runs = usize::try_from(number("--runs", 40)?.max(1))?;
    let rest = Duration::from_millis(number("--rest", 25)?.into());
    // All threads and programs from here on are in a host of their own.
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace (needs root)")?;
    let mut socket = netlink::Socket::open(0)?;
    socket.one(netlink::route::set_up(1)).map_err(refused)?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let only = arguments.iter().position(|a| a == "--only");
    let only = only.and_then(|at| arguments.get(at + 1));
    let wanted = |part: &str| only.is_none_or(|only| only == part);
    anyhow::ensure!(
        wanted("attach") || wanted("throughput"),
        "--only is followed by attach or throughput"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if wanted("attach") {
        runtime.block_on(bench(runs, rest))?;
    }
    if wanted("throughput") {
        runtime.block_on(throughput::bench(runs.min(12)))?;
    }
    Ok(())
}

async fn bench(runs: usize, rest: Duration) -> anyhow::Result<()> {
    let ours = ours::Ours::new().await?;
    let driver = ours.network();
    let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(ours)];
    let mut files: Vec<(&str, String)> = Vec::new();
    let mut add = |file, peer: anyhow::Result<Box<dyn Contestant>>| match peer {
        Ok(peer) => {
            files.push((file, peer.name().to_owned()));
            contestants.push(peer);
        }
        Err(error) => println!("SKIPPED {file}: {error:#}"),
    };
    add("floor", floor::Floor::new().map(boxed));
    add("netavark", peers::Netavark::of_crate().map(boxed));
    add("netavark-debian", peers::Netavark::of_debian().map(boxed));
    add("cni", peers::Cni::new().map(boxed));
    let before = report::load();
    let series = take_turns(contestants, 2, runs, rest).await?;
    let load = [before, report::load()];

    println!("\n{}", report::machine());
    println!(
        "{runs} runs in turns; load before {before:?}, after {:?}\n",
        load[1]
    );
    let mut table = Table::new(&["ms", "median", "p10", "p90", "runs"]);
    for one in &series {
        for (part, values) in &one.parts {
            if let Some(summary) = Summary::of(values) {
                row(&mut table, &format!("{}: {part}", one.name), &summary);
            }
        }
    }
    let (ours, peers) = series.split_first().context("nobody ran")?;
    for (file, peer) in files {
        let Some(theirs) = peers.iter().find(|one| one.name == peer) else {
            continue;
        };
        for part in [ATTACH, DETACH] {
            let (Some(ours), Some(peer)) = (ours.summary(part), theirs.summary(part)) else {
                continue;
            };
            let comparison = Comparison {
                name: format!("{part}-{file}"),
                what: format!("{part} of one group with one published port"),
                ours,
                peer_name: theirs.name.clone(),
                peer,
                unit: "ms",
                load,
            };
            println!("{part}: ours / {} = {:.3}", theirs.name, comparison.ratio());
            comparison.write(&report::directory())?;
        }
    }
    growth(&driver, &mut table).await?;
    println!("\n{table}");
    println!("written to {}", report::directory().display());
    Ok(())
}

/// Attaches many groups one after the other, and detaches them at once.
async fn growth(driver: &aci_net::BridgeNetwork, table: &mut Table) -> anyhow::Result<()> {
    use aci_core::contract::NetworkDriver;
    let mut groups = Vec::new();
    let mut times = Vec::new();
    for index in 0..GROUPS - 1 {
        let net = std::sync::Arc::new(namespace()?);
        let request = ours::request(&format!("many-{index}"), &net, None)?;
        let begin = Instant::now();
        driver.attach(request.clone()).await?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        groups.push((request.sandbox, net));
    }
    for (name, part) in [
        ("first 25", &times[..25]),
        ("last 25", &times[times.len() - 25..]),
    ] {
        if let Some(summary) = Summary::of(part) {
            row(
                table,
                &format!("ours, {name} of {GROUPS}: attach"),
                &summary,
            );
        }
    }
    let begin = Instant::now();
    let all = groups.iter().map(|(sandbox, _)| driver.detach(sandbox));
    for result in futures_util::future::join_all(all).await {
        result?;
    }
    let each = begin.elapsed().as_secs_f64() * 1e3 / f64::from(u32::try_from(groups.len())?);
    println!(
        "\nours, {} groups detached at once: {each:.2} ms each",
        groups.len()
    );
    Ok(())
}

fn row(table: &mut Table, name: &str, summary: &Summary) {
    let number = |value: f64| format!("{value:.2}");
    table.row(&[
        name.to_owned(),
        number(summary.median),
        number(summary.p10),
        number(summary.p90),
        summary.runs.to_string(),
    ]);
}

fn boxed<'a>(contestant: impl Contestant + 'a) -> Box<dyn Contestant + 'a> {
    Box::new(contestant)
}

/// A new network namespace, for a group.
fn namespace() -> anyhow::Result<OwnedFd> {
    let made = std::thread::spawn(|| -> anyhow::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    });
    made.join()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

fn refused(refusal: netlink::Refusal) -> anyhow::Error {
    anyhow::anyhow!("the kernel refused to {}: {}", refusal.what, refusal.errno)
}
