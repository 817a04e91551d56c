//! In network namespaces of the test's own.

use std::net::IpAddr;
use std::process::Command;

use super::*;
use crate::rtnl::Route;

fn namespace() -> OwnedFd {
    let made = thread::spawn(|| {
        sys::own_network().unwrap();
        OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
    });
    made.join().unwrap()
}

fn ip(namespace: &OwnedFd, lines: &[&str]) -> String {
    within(namespace, || {
        let mut said = String::new();
        for line in lines {
            let output = Command::new("ip").args(line.split(' ')).output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "ip {line}: {error}");
            said.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        Ok(said)
    })
    .unwrap()
}

/// What a driver gave is read whole, another link is given the same, and the first one keeps nothing.
#[test]
fn what_a_driver_gave_moves() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: needs root to make network namespaces");
        return;
    }
    let (host, guest) = (namespace(), namespace());
    assert_eq!(given(&host).unwrap(), None);
    ip(
        &host,
        &[
            "link add eth0 address 02:00:00:00:00:0a mtu 1400 type veth peer name other",
            "link set eth0 up",
            "link set other up",
            "addr add 10.88.0.4/32 dev eth0",
            "neigh add 10.88.0.1 lladdr 02:00:00:00:00:0b dev eth0 nud permanent",
            "route add default via 10.88.0.1 dev eth0 onlink",
            "route add 10.99.0.0/16 dev eth0",
            "addr add fd00::4/128 dev eth0 nodad",
            "neigh add fd00::1 lladdr 02:00:00:00:00:0b dev eth0 nud permanent",
            "route add default via fd00::1 dev eth0 onlink",
        ],
    );
    let wire = given(&host).unwrap().unwrap();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let mac = [2, 0, 0, 0, 0, 0xb];
    assert_eq!((wire.mac, wire.mtu), ([2, 0, 0, 0, 0, 0xa], 1400));
    assert_eq!(
        wire.addresses,
        [(address("10.88.0.4"), 32), (address("fd00::4"), 128)]
    );
    let mut neighbours = wire.neighbours.clone();
    neighbours.sort();
    assert_eq!(
        neighbours,
        [(address("10.88.0.1"), mac), (address("fd00::1"), mac)]
    );
    let route = |to: &str, prefix, gateway: Option<&str>| Route {
        to: (address(to), prefix),
        gateway: gateway.map(address),
    };
    assert_eq!(
        wire.routes,
        [
            route("0.0.0.0", 0, Some("10.88.0.1")),
            route("10.99.0.0", 16, None),
            route("::", 0, Some("fd00::1")),
        ]
    );

    ip(&guest, &["link add eth0 type veth peer name other"]);
    // Twice, as after a crash of the program.
    for _ in 0..2 {
        within(&guest, || {
            let mut rtnl = Rtnl::open()?;
            let link = rtnl.link("eth0")?.unwrap();
            rtnl.apply(link.index, &wire)
        })
        .unwrap();
    }
    let mut again = given(&guest).unwrap().unwrap();
    again.neighbours.sort();
    let mut expected = wire.clone();
    expected.neighbours.sort();
    assert_eq!(again, expected);

    make_tap(&host, 1234).unwrap();
    for _ in 0..2 {
        join(&host, &wire).unwrap();
    }
    let left = given(&host).unwrap().unwrap();
    assert_eq!((left.addresses, left.routes), (vec![], vec![]));
    assert_ne!(left.mac, wire.mac);
    let ports = ip(&host, &["-brief link show master br0"]);
    assert!(ports.contains("eth0") && ports.contains("tap0"), "{ports}");
    let tap = ip(&host, &["-details link show tap0"]);
    assert!(
        tap.contains("mtu 1400") && tap.contains("user 1234"),
        "{tap}"
    );
}
