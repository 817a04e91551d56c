//! A group's way from its namespace on the host into its machine.
//!
//! The jail's network namespace is what a network driver is given, and it gives it a link `eth0`
//! with addresses, as to any sandbox. The monitor has a tap there. When the first container is to
//! start, what `eth0` was given moves into the guest, and `eth0` and the tap become the two ports of a
//! bridge without addresses, so that what the driver checks (MAC and sender's address) holds for
//! the guest as it would for containers.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::rtnl::{Rtnl, Wire};
use crate::sys;

/// The device by which taps are made.
pub(crate) const TUN: &str = "/dev/net/tun";
/// The monitor's tap.
pub(crate) const TAP: &str = "tap0";
/// What drivers call a group's link.
const LINK: &str = "eth0";
const BRIDGE: &str = "br0";

/// Works in a network namespace, on a thread that ends with the work. Blocks.
fn within<T: Send>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let there = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        };
        let thread = thread::Builder::new().spawn_scoped(scope, there)?;
        let ended = |_| Err(io::Error::other("a thread has ended unexpectedly"));
        thread.join().unwrap_or_else(ended)
    })
}

/// Makes the tap, for a monitor of this user of the host's.
pub(super) fn make_tap(namespace: &OwnedFd, owner: u32) -> io::Result<()> {
    within(namespace, || {
        // A tap is made in the namespace that its device was opened in.
        let device = File::options().read(true).write(true).open(TUN)?;
        sys::lasting_tap(&device, TAP, owner)
    })
}

/// What the driver gave; `None` as long as it has given nothing. Blocks.
pub(super) fn given(namespace: &OwnedFd) -> io::Result<Option<Wire>> {
    within(namespace, || {
        let mut rtnl = Rtnl::open()?;
        match rtnl.link(LINK)? {
            Some(link) => rtnl.wire(&link).map(Some),
            None => Ok(None),
        }
    })
}

/// Joins the driver's link and the tap. May be repeated. Blocks.
pub(super) fn join(namespace: &OwnedFd, wire: &Wire) -> io::Result<()> {
    within(namespace, || {
        let mut rtnl = Rtnl::open()?;
        let mut index = |name: &str| {
            let found = rtnl.link(name)?.map(|link| link.index);
            found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no link {name}")))
        };
        let (outside, tap) = (index(LINK)?, index(TAP)?);
        rtnl.add_bridge(BRIDGE)?;
        let bridge = rtnl.link(BRIDGE)?.map_or(0, |link| link.index);
        // They have no addresses of their own, not even those that IPv6 makes up.
        for name in [BRIDGE, TAP, LINK] {
            silence(name)?;
        }
        rtnl.take(outside, &wire.addresses)?;
        // The guest has this MAC address; a bridge keeps what is for its ports' own.
        let mut own = wire.mac;
        own[5] ^= 0x80;
        rtnl.set_mac(outside, own)?;
        rtnl.set_mtu(tap, wire.mtu)?;
        for port in [outside, tap] {
            rtnl.set_master(port, bridge)?;
        }
        for link in [bridge, tap, outside] {
            rtnl.set_up(link)?;
        }
        Ok(())
    })
}

/// Switches IPv6 off on a link of this thread's namespace, where the kernel has it.
fn silence(link: &str) -> io::Result<()> {
    let switch = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    match fs::write(switch, "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether machines can have a network on this host.
pub(super) fn can_tap() -> bool {
    Path::new(TUN).exists()
}

#[cfg(test)]
mod tests;
