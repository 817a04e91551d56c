//! What containers are told about names: the document's `dnsConfig`, or the host's own settings
//! (`resolv.conf(5)`) without resolvers that only the host itself reaches.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use aci_core::contract::DnsSettings;
use aci_core::error::{Error, ErrorKind, Result};
use aci_core::model::DnsConfiguration;

/// The most name servers that a resolver library asks (`MAXNS`).
const MAX_SERVERS: usize = 3;

/// The host's settings, read again when the file is another one: reading and parsing it costs an
/// attachment a twentieth of its time.
#[derive(Debug)]
pub(crate) struct HostFile {
    path: PathBuf,
    /// What the file was when it was read: device, inode, size, and the times of its last changes.
    known: Option<(Stamp, DnsSettings)>,
}

type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl HostFile {
    /// A file in the form of resolv.conf(5).
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path, known: None }
    }

    /// What it says now; nothing if it is not there.
    pub(crate) fn settings(&mut self) -> DnsSettings {
        let stamp = std::fs::metadata(&self.path).ok().map(|m| -> Stamp {
            let changed = (m.mtime(), m.mtime_nsec());
            (
                m.dev(),
                m.ino(),
                m.len(),
                changed,
                (m.ctime(), m.ctime_nsec()),
            )
        });
        if let (Some(stamp), Some((known, settings))) = (&stamp, &self.known)
            && stamp == known
        {
            return settings.clone();
        }
        let read = std::fs::read_to_string(&self.path);
        let settings = read.map(|text| from_host(&text)).unwrap_or_default();
        // What was changed just now may be changed again without another time: times have the
        // grain of the kernel's clock tick.
        let old = |stamp: &Stamp| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let changed = u64::try_from(stamp.4.0).unwrap_or(u64::MAX);
            now.is_ok_and(|now| now.as_secs() > changed.saturating_add(1))
        };
        self.known = stamp.filter(old).map(|stamp| (stamp, settings.clone()));
        settings
    }
}

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
    fn a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut file = HostFile::new(path.clone());
        assert_eq!(file.settings(), DnsSettings::default());
        let first = |file: &mut HostFile| file.settings().name_servers.first().copied();
        // Changes of the same size within one tick of the clock, and one that is remembered.
        for round in 1..=9 {
            std::fs::write(&path, format!("nameserver 192.0.2.{round}\n")).unwrap();
            assert_eq!(first(&mut file), Some([192, 0, 2, round].into()));
        }
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert_eq!(first(&mut file), Some([192, 0, 2, 9].into()));
        assert!(file.known.is_some(), "an old file is remembered");
        assert_eq!(first(&mut file), Some([192, 0, 2, 9].into()));
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(first(&mut file), Some([192, 0, 2, 1].into()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.settings(), DnsSettings::default());
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
