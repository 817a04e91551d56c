//! Address ranges.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Call;
use crate::template::error::TemplateResult;

fn network(call: &Call<'_, '_, '_>) -> TemplateResult<IpNet> {
    let parsed: Option<IpNet> = call.text(0)?.trim().parse().ok();
    parsed.ok_or_else(|| call.refuse("the network is not in CIDR notation such as '10.0.0.0/16'"))
}

/// The address `offset` places after `first`; `None` when it leaves the range of addresses.
fn after(first: IpAddr, offset: u128) -> Option<IpAddr> {
    match first {
        IpAddr::V4(first) => {
            let number = u128::from(first.to_bits()).checked_add(offset)?;
            Some(IpAddr::V4(u32::try_from(number).ok()?.into()))
        }
        IpAddr::V6(first) => Some(IpAddr::V6(first.to_bits().checked_add(offset)?.into())),
    }
}

pub(super) fn parse(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(1, 1)?;
    let net = network(call)?;
    let (first, last) = (net.network(), net.broadcast());
    // IPv6 has no broadcast address, and every address of a range is usable.
    let (usable_first, usable_last) = match net {
        IpNet::V4(net) if net.prefix_len() < 31 => (
            after(first, 1).unwrap_or(first),
            IpAddr::V4((net.broadcast().to_bits() - 1).into()),
        ),
        _ => (first, last),
    };
    let mut info = json!({ "network": first.to_string(), "netmask": net.netmask().to_string() });
    if first.is_ipv4() {
        info["broadcast"] = json!(last.to_string());
    }
    info["firstUsable"] = json!(usable_first.to_string());
    info["lastUsable"] = json!(usable_last.to_string());
    info["cidr"] = json!(net.prefix_len());
    Ok(info)
}

pub(super) fn subnet(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(3, 3)?;
    let net = network(call)?;
    let (prefix, index) = (call.int(1)?, call.int(2)?);
    let longest = net.max_prefix_len();
    let subnet = u8::try_from(prefix)
        .ok()
        .filter(|prefix| (net.prefix_len()..=longest).contains(prefix))
        .zip(u128::try_from(index).ok())
        .and_then(|(prefix, index)| {
            let step = u32::from(longest - prefix);
            // Shifting by the whole width can only be the first subnet.
            let offset = if index == 0 {
                0
            } else {
                index.checked_mul(1_u128.checked_shl(step)?)?
            };
            let first = after(net.network(), offset)?;
            net.contains(&first).then_some(())?;
            IpNet::new(first, prefix).ok()
        });
    let refuse = || {
        call.refuse(format!(
            "the network has no subnet {index} with a prefix of {prefix} bits"
        ))
    };
    subnet
        .map(|subnet| Value::String(subnet.to_string()))
        .ok_or_else(refuse)
}

/// The host with an index: 0 is the address after the network's own.
pub(super) fn host(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(2, 2)?;
    let net = network(call)?;
    let index = call.int(1)?;
    let host = u128::try_from(index)
        .ok()
        .and_then(|index| after(net.network(), index + 1))
        .filter(|host| net.contains(host) && (host.is_ipv6() || *host != net.broadcast()));
    let refuse = || call.refuse(format!("the network has no host with the index {index}"));
    host.map(|host| Value::String(host.to_string()))
        .ok_or_else(refuse)
}
