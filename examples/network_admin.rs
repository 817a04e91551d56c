//! Shows or tidies the network of a state directory while no engine uses it:
//!
//! ```text
//! network_admin <state directory> list
//! network_admin <state directory> gc <sandbox to keep>...
//! network_admin <state directory> gc --keep-none
//! ```
//!
//! It opens the network with default options, which hold until the engine opens it again; a program with
//! options of its own calls `BridgeNetwork::report` and `collect` itself.

use std::path::Path;
use std::process::ExitCode;

use aci_core::contract::NetworkDriver;
use aci_core::error::{Error, ErrorKind};
use aci_core::id::SandboxId;
use aci_net::{BridgeNetwork, BridgeOptions};

const USAGE: &str =
    "usage: network_admin <state directory> list | gc <sandbox to keep>... | gc --keep-none";
const KEEP_NONE: &str = "--keep-none";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, command, rest) = match arguments.as_slice() {
        [directory, command] if command == "list" => (directory, command.as_str(), &[][..]),
        [directory, command, rest @ ..] if command == "gc" && !rest.is_empty() => {
            (directory, command.as_str(), rest)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(directory, command, rest).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn run(directory: &str, command: &str, keep: &[String]) -> Result<(), Error> {
    // Opening would make an empty one.
    if !Path::new(directory).join("journal").is_file() {
        return Err(Error::new(
            ErrorKind::NotFound,
            "network_admin",
            "there is no network's journal in this directory",
        )
        .on(directory)
        .hint("give the directory that the program gave to `BridgeOptions::new`"));
    }
    let network = BridgeNetwork::open(BridgeOptions::new(directory)).await?;
    if command == "gc" {
        let keep = match keep {
            [only] if only == KEEP_NONE => Vec::new(),
            named => named
                .iter()
                .map(|id| id.parse())
                .collect::<Result<Vec<SandboxId>, _>>()?,
        };
        // A name that is wrong would cost the group its network that was meant.
        let attached: Vec<SandboxId> = network
            .list()
            .await?
            .into_iter()
            .map(|a| a.sandbox)
            .collect();
        if let Some(unknown) = keep.iter().find(|id| !attached.contains(id)) {
            let names: Vec<String> = attached.iter().map(ToString::to_string).collect();
            let names = match names.as_slice() {
                [] => "nobody is".to_owned(),
                some => format!("attached are: {}", some.join(", ")),
            };
            return Err(Error::new(
                ErrorKind::NotFound,
                "network_admin",
                format!("no such sandbox is attached; {names}"),
            )
            .on(unknown));
        }
        let collected = network.collect(&keep).await?;
        for sandbox in &collected.detached {
            println!("detached {sandbox}");
        }
        println!(
            "removed {} links, routes and addresses of nobody",
            collected.strays
        );
        return Ok(());
    }
    let report = network.report().await?;
    for network in &report.networks {
        for (subnet, ranges) in &network.subnets {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            println!("subnet {}/{subnet} {}", network.name, ranges.join(" "));
        }
    }
    for place in &report.attachments {
        let addresses = &place.attachment.addresses;
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        println!(
            "{} {} {}/{} {}{}",
            place.attachment.sandbox,
            addresses.join(" "),
            place.network,
            place.subnet,
            if place.ready { "ready" } else { "withheld" },
            if place.leaving { ", leaving" } else { "" },
        );
    }
    println!(
        "{} public addresses in use, {} addresses rest",
        report.public_addresses, report.resting_addresses
    );
    for link in &report.stray_links {
        println!("link of nobody: {link}");
    }
    Ok(())
}
