//! What the machine gives to an example's engine.

use std::path::Path;

use aci_core::error::ErrorKind;
use aci_net::{BridgeNetwork, BridgeOptions, LoopbackNetwork, UserModeNetwork, UserModeOptions};
use aci_runtime::EngineBuilder;
use anyhow::Result;

/// Root's groups get addresses that the host reaches; an ordinary user's reach out by `pasta`, or
/// have loopback only where that is not installed.
///
/// # Errors
/// If the network cannot be opened.
pub async fn with_network(builder: EngineBuilder, dir: &Path) -> Result<EngineBuilder> {
    if let Some(bridge) = bridge(dir).await? {
        return Ok(builder.network(bridge));
    }
    let options = UserModeOptions::new(dir.join("network"));
    match UserModeNetwork::open(options).await {
        Ok(network) => Ok(builder.network(network)),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            println!("note: {error}");
            Ok(builder.network(LoopbackNetwork::new()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The network with addresses, which only root can have.
///
/// # Errors
/// If it cannot be opened.
pub async fn bridge(dir: &Path) -> Result<Option<BridgeNetwork>> {
    if !is_root() {
        return Ok(None);
    }
    let options = BridgeOptions::new(dir.join("network"));
    Ok(Some(BridgeNetwork::open(options).await?))
}

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_whitespace().nth(1))
            == Some("0")
    })
}
