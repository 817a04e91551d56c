//! Which addresses the virtual network has: those that were asked for, or a free range.

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;

use super::host::ranges;
use crate::ipam::{DEFAULT_RANGES, VirtualNetwork, overlap};
use crate::netlink::route::Route;

const OPEN: &str = "network.open";

/// Chooses virtual networks that do not clash with the host's routes (without our own).
///
/// Networks that were asked for clash with routes to them or to a part of them; a wider route of the
/// host gives way. A default range is only taken if it touches no route at all, the default route
/// aside; the one that was `kept` from the last time is tried first. It comes with the IPv6 range
/// `v6` if the host has a default route for IPv6.
///
/// # Errors
/// [`Conflict`](ErrorKind::Conflict) naming the route that is in the way.
pub(super) fn choose(
    given: Option<&[VirtualNetwork]>,
    kept: Option<&[VirtualNetwork]>,
    routes: &[Route],
    v6: Option<IpNet>,
) -> Result<Vec<VirtualNetwork>> {
    let clash = |message: String| {
        Error::new(ErrorKind::Conflict, OPEN, message).hint(
            "open the network with a range that this host does not use (`BridgeOptions::network`)",
        )
    };
    if let Some(given) = given {
        let taken = routes.iter().find_map(|route| {
            let touched = |n: &&VirtualNetwork| {
                let mut ranges = ranges(std::slice::from_ref(*n)).into_iter();
                ranges.any(|range| range.contains(&route.destination))
            };
            given.iter().find(touched).map(|n| (n, route))
        });
        return match taken {
            None => Ok(given.to_vec()),
            Some((network, route)) => Err(clash(format!(
                "virtual network '{}' clashes with the host's route to {}",
                network.name(),
                route.destination
            ))),
        };
    }
    let occupied: Vec<IpNet> = routes
        .iter()
        .map(|r| r.destination)
        .filter(|d| d.prefix_len() > 0)
        .collect();
    let default = |r: &Route| r.destination.prefix_len() == 0 && r.kind == 1;
    let v6 = v6.filter(|_| {
        routes
            .iter()
            .any(|r| default(r) && r.destination.addr().is_ipv6())
    });
    let defaults = DEFAULT_RANGES
        .iter()
        .filter_map(|range| range.parse().ok())
        .filter_map(|range| VirtualNetwork::double(range, v6).ok())
        .map(|network| vec![network]);
    kept.map(<[VirtualNetwork]>::to_vec)
        .into_iter()
        .chain(defaults)
        .find(|networks| !overlap(&ranges(networks), &occupied))
        .ok_or_else(|| {
            clash(format!(
                "the host's routes touch each of the default ranges {}",
                DEFAULT_RANGES.join(", ")
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            protocol: 3,
            metric: 0,
            kind: 1,
            link: Some(1),
        }
    }

    fn network(range: &str) -> Vec<VirtualNetwork> {
        vec![VirtualNetwork::single(range.parse().unwrap()).unwrap()]
    }

    #[test]
    fn the_first_free_default_is_taken() {
        let choice =
            |routes: &[Route]| choose(None, None, routes, None).map(|n| ranges(&n)[0].to_string());
        assert_eq!(choice(&[]).unwrap(), "10.88.0.0/16");
        assert_eq!(choice(&[route("0.0.0.0/0")]).unwrap(), "10.88.0.0/16");
        assert_eq!(choice(&[route("10.88.3.4/32")]).unwrap(), "10.118.0.0/16");
        assert_eq!(choice(&[route("10.0.0.0/8")]).unwrap(), "172.27.0.0/16");
        let error = choice(&[
            route("10.0.0.0/8"),
            route("172.16.0.0/12"),
            route("192.168.0.0/16"),
        ])
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }

    #[test]
    fn a_host_with_ipv6_gives_its_groups_ipv6() {
        let v6 = crate::ipam::local_v6("0123456789abcdef");
        assert_eq!(v6.unwrap().to_string(), "fd01:2345:6789::/64");
        let families = |routes: &[Route]| ranges(&choose(None, None, routes, v6).unwrap()).len();
        assert_eq!(families(&[route("0.0.0.0/0")]), 1);
        assert_eq!(families(&[route("::/0")]), 2);
        let mut nowhere = route("::/0");
        nowhere.kind = 7;
        assert_eq!(families(&[nowhere]), 1);
    }

    #[test]
    fn the_last_choice_is_kept_while_it_is_free() {
        let kept = network("10.118.0.0/16");
        assert_eq!(choose(None, Some(&kept), &[], None).unwrap(), kept);
        let other = choose(None, Some(&kept), &[route("10.118.7.0/24")], None).unwrap();
        assert_eq!(other, network("10.88.0.0/16"));
    }

    #[test]
    fn a_network_that_was_asked_for_is_more_exact_than_the_host_s_routes() {
        let given = network("10.5.0.0/16");
        assert_eq!(
            choose(Some(&given), None, &[route("10.0.0.0/8")], None).unwrap(),
            given
        );
        for taken in ["10.5.0.0/16", "10.5.9.0/24"] {
            let error = choose(Some(&given), None, &[route(taken)], None).unwrap_err();
            assert!(error.message().contains(taken), "{error}");
        }
    }
}
