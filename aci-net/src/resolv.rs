//! What containers are told about names: the document's `dnsConfig`, or the host's own settings
//! (`resolv.conf(5)`) without resolvers that only the host itself reaches.

use std::net::IpAddr;

use aci_core::contract::DnsSettings;
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::DnsConfiguration;

/// The most name servers that a resolver library asks (`MAXNS`).
const MAX_SERVERS: usize = 3;

/// The settings that a document asks for.
///
/// # Errors
/// [`Invalid`](ErrorKind::Invalid) for a name server that is no IP address.
pub(crate) fn from_document(dns: &DnsConfiguration) -> Result<DnsSettings> {
    let name_servers = dns
        .name_servers
        .iter()
        .map(|text| {
            text.trim().parse().map_err(|_| {
                Error::new(
                    ErrorKind::Invalid,
                    "network.attach",
                    format!("dnsConfig.nameServers: '{text}' is not an IP address"),
                )
            })
        })
        .collect::<Result<_>>()?;
    let words = |text: &Option<String>| {
        text.as_deref()
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    Ok(DnsSettings {
        name_servers,
        search: words(&dns.search_domains),
        options: words(&dns.options),
    })
}

/// The settings in a `resolv.conf`. As in the C library, the last of `search` and `domain` counts.
pub(crate) fn from_host(text: &str) -> DnsSettings {
    let mut settings = DnsSettings::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A scope (`fe80::1%eth0`) names a link that groups do not have.
                let address = words.next().and_then(|w| w.parse::<IpAddr>().ok());
                if let Some(address) = address.filter(|a| reachable(*a))
                    && settings.name_servers.len() < MAX_SERVERS
                {
                    settings.name_servers.push(address);
                }
            }
            Some("search" | "domain") => {
                settings.search = words.map(str::to_owned).collect();
            }
            Some("options") => settings.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    settings
}

/// The name servers in a `resolv.conf` that the host itself can ask, its own loopback included.
pub(crate) fn servers(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(address) = words.next().and_then(|w| w.parse::<IpAddr>().ok())
            && !servers.contains(&address)
            && servers.len() < MAX_SERVERS
        {
            servers.push(address);
        }
    }
    servers
}

/// Whether a group could reach a resolver at this address.
fn reachable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_host_s_settings_without_its_loopback() {
        let settings = from_host(
            "# made by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.1 # first\nnameserver ::1\n\
             nameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n\
             domain old.example\nsearch a.example b.example\noptions ndots:2 edns0\noptions rotate\n",
        );
        assert_eq!(
            settings.name_servers,
            ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|a| a.parse::<IpAddr>().unwrap())
        );
        assert_eq!(settings.search, ["a.example", "b.example"]);
        assert_eq!(settings.options, ["ndots:2", "edns0", "rotate"]);
    }

    #[test]
    fn the_document_s_settings() {
        let mut dns = DnsConfiguration {
            name_servers: vec!["10.0.0.10".to_owned()],
            search_domains: Some("contoso.com sub.contoso.com".to_owned()),
            options: Some("ndots:2".to_owned()),
            ..DnsConfiguration::default()
        };
        let settings = from_document(&dns).unwrap();
        assert_eq!(settings.search.len(), 2);
        assert_eq!(settings.options, ["ndots:2"]);
        dns.name_servers.push("dns.example".to_owned());
        let error = from_document(&dns).unwrap_err();
        assert!(error.to_string().contains("dns.example"), "{error}");
    }

    proptest! {
        #[test]
        fn any_file_is_read(text in "(nameserver|search|options|domain|[ #;.:0-9a-f\n])*") {
            let settings = from_host(&text);
            prop_assert!(settings.name_servers.len() <= MAX_SERVERS);
            prop_assert!(settings.name_servers.iter().all(|a| !a.is_loopback()));
        }
    }
}
