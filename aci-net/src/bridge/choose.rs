//! Which addresses the virtual network has: those that were asked for, or a free range.

use aci_core::error::{Error, ErrorKind, Result};
use ipnet::IpNet;

use super::host::ranges;
use crate::ipam::{DEFAULT_RANGES, VirtualNetwork, overlap};
use crate::netlink::route::Route;

const OPEN: &str = "network.open";

/// Chooses a virtual network that does not clash with the host's routes (without our own).
///
/// A network that was asked for clashes with routes to it or to a part of it; a wider route of the
/// host gives way to it. A default range is only taken if it touches no route at all, the default
/// route aside; the one that was `kept` from the last time is tried first.
///
/// # Errors
/// [`Conflict`](ErrorKind::Conflict) naming the route that is in the way.
pub(super) fn choose(
    given: Option<&VirtualNetwork>,
    kept: Option<&VirtualNetwork>,
    routes: &[Route],
) -> Result<VirtualNetwork> {
    let clash = |message: String| {
        Error::new(ErrorKind::Conflict, OPEN, message).hint(
            "open the network with a range that this host does not use (`BridgeOptions::network`)",
        )
    };
    if let Some(given) = given {
        let taken = routes.iter().find(|route| {
            ranges(given)
                .iter()
                .any(|range| range.contains(&route.destination))
        });
        return match taken {
            None => Ok(given.clone()),
            Some(route) => Err(clash(format!(
                "virtual network '{}' clashes with the host's route to {}",
                given.name(),
                route.destination
            ))),
        };
    }
    let occupied: Vec<IpNet> = routes
        .iter()
        .map(|r| r.destination)
        .filter(|d| d.prefix_len() > 0)
        .collect();
    let defaults = DEFAULT_RANGES
        .iter()
        .filter_map(|range| range.parse().ok())
        .filter_map(|range| VirtualNetwork::single(range).ok());
    kept.cloned()
        .into_iter()
        .chain(defaults)
        .find(|network| !overlap(&ranges(network), &occupied))
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

    fn network(range: &str) -> VirtualNetwork {
        VirtualNetwork::single(range.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_first_free_default_is_taken() {
        let choice =
            |routes: &[Route]| choose(None, None, routes).map(|n| ranges(&n)[0].to_string());
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
    fn the_last_choice_is_kept_while_it_is_free() {
        let kept = network("10.118.0.0/16");
        assert_eq!(choose(None, Some(&kept), &[]).unwrap(), kept);
        let other = choose(None, Some(&kept), &[route("10.118.7.0/24")]).unwrap();
        assert_eq!(other, network("10.88.0.0/16"));
    }

    #[test]
    fn a_network_that_was_asked_for_is_more_exact_than_the_host_s_routes() {
        let given = network("10.5.0.0/16");
        assert_eq!(
            choose(Some(&given), None, &[route("10.0.0.0/8")]).unwrap(),
            given
        );
        for taken in ["10.5.0.0/16", "10.5.9.0/24"] {
            let error = choose(Some(&given), None, &[route(taken)]).unwrap_err();
            assert!(error.message().contains(taken), "{error}");
        }
    }
}
