//! What a refusal by the kernel means for an operator.

use aci_core::error::{Error, ErrorKind};
use rustix::io::Errno;

use crate::netlink::Refusal;

/// The error for a refused request.
pub(crate) fn refused(operation: &'static str, refusal: Refusal) -> Error {
    let (kind, hint) = match refusal.errno {
        Errno::PERM | Errno::ACCESS => (
            ErrorKind::PermissionDenied,
            Some(
                "needs CAP_NET_ADMIN and CAP_SYS_ADMIN in the host's network namespace: run as root, or use `LoopbackNetwork`"
                    .to_owned(),
            ),
        ),
        Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::NOSYS => {
            let module = missing_module(refusal.what);
            (
                ErrorKind::Unsupported,
                Some(format!("the kernel lacks {module}")),
            )
        }
        Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN => (ErrorKind::Unavailable, None),
        _ => (ErrorKind::Internal, None),
    };
    let error = Error::new(
        kind,
        operation,
        format!("the kernel refused to {}", refusal.what),
    )
    .because(refusal);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn missing_module(what: &str) -> &'static str {
    match what {
        "create a veth pair" => "virtual Ethernet pairs (CONFIG_VETH; `modprobe veth`)",
        "create a bridge" => "bridges (CONFIG_BRIDGE; `modprobe bridge`)",
        _ => "this part of its networking, or IPv6 is switched off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::codec::Request;
    use crate::netlink::route;

    #[test]
    fn an_operator_learns_what_is_missing() {
        let explain = |request: &Request, errno| {
            refused(
                "network.attach",
                Refusal {
                    what: request.what(),
                    errno,
                    text: Some("Unknown device type".to_owned()),
                },
            )
        };
        let bridge = explain(&route::new_bridge("aci", 1, 1500), Errno::OPNOTSUPP);
        assert_eq!(bridge.kind(), ErrorKind::Unsupported);
        assert!(bridge.to_string().contains("CONFIG_BRIDGE"), "{bridge}");
        assert!(bridge.chain().contains("Unknown device type"));
        let denied = explain(&route::may_change_links(), Errno::PERM);
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("CAP_NET_ADMIN"), "{denied}");
    }
}
