//! Shows or tidies the network of a state directory while no engine uses it:
//!
//! ```text
//! network_admin <state directory> list
//! network_admin <state directory> gc <sandbox to keep>...
//! ```
//!
//! It opens the network with default options, which hold until the engine opens it again; a program with
//! options of its own calls `BridgeNetwork::report` and `collect` itself.

use std::process::ExitCode;

use aci_core::error::Error;
use aci_net::{BridgeNetwork, BridgeOptions};

const USAGE: &str = "usage: network_admin <state directory> list | gc <sandbox to keep>...";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, command, rest) = match arguments.as_slice() {
        [directory, command, rest @ ..] if matches!(command.as_str(), "list" | "gc") => {
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
    let network = BridgeNetwork::open(BridgeOptions::new(directory)).await?;
    if command == "gc" {
        let keep = keep
            .iter()
            .map(|id| id.parse())
            .collect::<Result<Vec<_>, _>>()?;
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
