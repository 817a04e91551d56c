//! Ports of containers and of the group's address.

use crate::model::{IpAddress, Protocol};

use super::check::{Check, Path, repeated, shown};
use super::codes;

/// The most ports of an address.
const MAX_PORTS: usize = 5;

/// A port as it is compared: TCP where no protocol is given.
type Key = (u16, Protocol);

fn key(port: u16, protocol: Option<&Protocol>) -> Key {
    (port, protocol.cloned().unwrap_or_default())
}

pub(super) fn check(check: &mut Check<'_>) {
    let mut used: Vec<(Key, String, Path)> = Vec::new();
    for (i, container) in check.properties().containers.iter().enumerate() {
        let path = Path::properties("containers")
            .index(i)
            .name("properties")
            .name("ports");
        container_ports(check, i, &path);
        for (j, port) in container.properties.ports.iter().enumerate() {
            let key = key(port.port, port.protocol.as_ref());
            used.push((key, shown(&container.name), path.index(j)));
        }
    }
    duplicates(check, &used);
    reserved(check, &used);
    if let Some(address) = &check.properties().ip_address {
        address_ports(check, address);
        let used: Vec<&Key> = used.iter().map(|(key, ..)| key).collect();
        unused(check, address, &used);
    }
}

fn container_ports(check: &mut Check<'_>, container: usize, path: &Path) {
    let Some(container) = check.properties().containers.get(container) else {
        return;
    };
    let (name, group) = (shown(&container.name), check.group_name());
    for (i, port) in container.properties.ports.iter().enumerate() {
        if port.port == 0 {
            let message = format!(
                "The ports '0' are invalid for container '{name}' in container group '{group}'. The port must be between \
                 1 and 65535."
            );
            check.problem(
                codes::INVALID_CONTAINER_PORTS,
                &path.index(i).name("port"),
                message,
            );
        }
        if let Some(Protocol::Other(protocol)) = &port.protocol {
            let message = format!(
                "The protocol '{}' of port '{}' is invalid for container '{name}' in container group '{group}'. The \
                 value must be one of '{}'.",
                shown(protocol),
                port.port,
                Protocol::KNOWN.join(",")
            );
            check.problem(
                codes::INVALID_CONTAINER_PORTS,
                &path.index(i).name("protocol"),
                message,
            );
        }
    }
}

/// The containers of a group share one network: the same port of the same protocol can be listened
/// on once.
fn duplicates(check: &mut Check<'_>, used: &[(Key, String, Path)]) {
    for (again, before) in repeated(used.iter().map(|(key, ..)| key)) {
        let ((key, second, path), (_, first, _)) = (&used[again], &used[before]);
        if key.0 == 0 {
            continue;
        }
        let who = if first == second {
            format!("more than once by container '{first}'")
        } else {
            format!("by containers '{first}' and '{second}', which share one network,")
        };
        let message = format!(
            "The port '{}' with protocol '{}' is used {who} in container group '{}'.",
            key.0,
            key.1,
            check.group_name()
        );
        check.problem(codes::DUPLICATE_CONTAINER_PORTS, path, message);
    }
}

fn reserved(check: &mut Check<'_>, used: &[(Key, String, Path)]) {
    for ((port, _), name, path) in used {
        if check.rules.is_reserved(*port) {
            let message = format!(
                "The port '{port}' of container '{name}' in container group '{}' is reserved by ACI.",
                check.group_name()
            );
            let severity = check.rules.reserved_port_use;
            check.report(severity, codes::RESERVED_PORTS, &path.name("port"), message);
        }
    }
}

fn address_ports(check: &mut Check<'_>, address: &IpAddress) {
    let group = check.group_name();
    let path = Path::properties("ipAddress").name("ports");
    let count = address.ports.len();
    if count == 0 {
        let message =
            format!("The ports in the 'ipAddress' of container group '{group}' cannot be empty.");
        check.problem(codes::MISSING_IP_ADDRESS_PORTS, &path, message);
    }
    if count > MAX_PORTS {
        let message = format!(
            "The 'ipAddress' of container group '{group}' has {count} ports; at most {MAX_PORTS} are allowed."
        );
        check.problem(codes::INVALID_IP_ADDRESS_PORTS, &path, message);
    }
    for (i, port) in address.ports.iter().enumerate() {
        if port.port == 0 {
            let message = format!(
                "The port '0' in the 'ipAddress' of container group '{group}' is invalid. The port must be between 1 and \
                 65535."
            );
            check.problem(
                codes::INVALID_IP_ADDRESS_PORTS,
                &path.index(i).name("port"),
                message,
            );
        }
        if let Some(Protocol::Other(protocol)) = &port.protocol {
            let message = format!(
                "The protocol '{}' in the 'ipAddress' of container group '{group}' is invalid. The value must be one of \
                 '{}'.",
                shown(protocol),
                Protocol::KNOWN.join(",")
            );
            check.problem(
                codes::INVALID_IP_ADDRESS_PORTS,
                &path.index(i).name("protocol"),
                message,
            );
        }
    }
    let keys = address
        .ports
        .iter()
        .map(|p| key(p.port, p.protocol.as_ref()));
    let keys: Vec<Key> = keys.collect();
    for (i, _) in repeated(&keys) {
        let (port, protocol) = &keys[i];
        if *port == 0 {
            continue;
        }
        let message = format!(
            "The port '{port}' with protocol '{protocol}' is given more than once in the 'ipAddress' of container group \
             '{group}'."
        );
        check.problem(codes::INVALID_IP_ADDRESS_PORTS, &path.index(i), message);
    }
}

/// There is no port mapping: a port of the address is a port of a container.
fn unused(check: &mut Check<'_>, address: &IpAddress, used: &[&Key]) {
    if check.properties().containers.is_empty() {
        return;
    }
    let used: std::collections::BTreeSet<&Key> = used.iter().copied().collect();
    let is_unused = |port: &&crate::model::Port| {
        let known = !matches!(port.protocol, Some(Protocol::Other(_)));
        known && port.port != 0 && !used.contains(&key(port.port, port.protocol.as_ref()))
    };
    let mut unused: Vec<String> = Vec::new();
    for port in address.ports.iter().filter(is_unused).take(20) {
        let port = match port.protocol {
            Some(Protocol::Udp) => format!("{}/UDP", port.port),
            _ => port.port.to_string(),
        };
        if !unused.contains(&port) {
            unused.push(port);
        }
    }
    if unused.is_empty() {
        return;
    }
    let message = format!(
        "Following ports '{}' in the 'ipAddress' are not used by any container in container group '{}'. List them among \
         the ports of the container that listens on them.",
        unused.join(","),
        check.group_name()
    );
    let path = Path::properties("ipAddress").name("ports");
    check.problem(codes::UNUSED_IP_ADDRESS_PORTS, &path, message);
}
