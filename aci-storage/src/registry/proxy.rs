//! Proxies: which connections go through one, and how.

use std::fmt;
use std::net::IpAddr;

use aci_core::error::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::address::{Address, Origin};

/// Proxies for the way to registries; a part of [`Registries`](super::Registries).
///
/// The values have the form of the variables `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, and the
/// meaning that Go's `httpproxy` gives them, which Docker, containerd and Podman follow. This crate
/// reads no environment; whoever wants the variables passes them in.
///
/// ```
/// use aci_storage::{Proxies, Registries};
/// let mut registries = Registries::default();
/// registries.proxies = Proxies::new("http://proxy.example:3128", "", ".example,10.0.0.0/8")?;
/// # Ok::<(), aci_core::error::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    except: Vec<Exception>,
}

/// One proxy. It has no derived `Debug`, because it may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) origin: Origin,
    /// For `Proxy-Authorization`.
    pub(super) proof: Option<HeaderValue>,
}

/// What is reached without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    All,
    Network(IpAddr, u8),
    /// A name and those below it; without the name itself if it was written with a dot before it.
    Name {
        name: String,
        below_only: bool,
        port: Option<u16>,
    },
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |proxy: &Option<Proxy>| proxy.as_ref().map(|p| p.origin.to_string());
        f.debug_struct("Proxies")
            .field("https", &host(&self.https))
            .field("http", &host(&self.http))
            .field("except", &self.except)
            .finish()
    }
}

impl Proxies {
    /// `https_proxy` is for registries with TLS, `http_proxy` for those without, each as
    /// `[http://][USER:PASSWORD@]HOST[:PORT]` or empty for none. `no_proxy` lists what is reached
    /// directly, with commas between: `*`, names (`example.com`, which includes those below it,
    /// `.example.com`, which is those only), addresses, networks (`10.0.0.0/8`), each name or
    /// address also with a port. `localhost` and loopback addresses are always reached directly.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a proxy that is no such URL; the message does not
    /// repeat it, since it may hold a password. A proxy that is itself spoken to by TLS or SOCKS
    /// is [`Unsupported`](ErrorKind::Unsupported).
    pub fn new(https_proxy: &str, http_proxy: &str, no_proxy: &str) -> Result<Self> {
        Ok(Self {
            https: proxy("https_proxy", https_proxy)?,
            http: proxy("http_proxy", http_proxy)?,
            except: no_proxy
                .split([',', ' '])
                .filter_map(|word| exception(word.trim()))
                .collect(),
        })
    }

    /// The proxy on the way to a server.
    pub(super) fn towards(&self, to: &Origin) -> Option<&Proxy> {
        let proxy = if to.tls { &self.https } else { &self.http };
        let address: Option<IpAddr> = to.host.parse().ok();
        let direct = to.host == "localhost"
            || address.is_some_and(|a| a.is_loopback())
            || self.except.iter().any(|e| e.covers(to, address));
        proxy.as_ref().filter(|_| !direct)
    }
}

fn proxy(which: &str, text: &str) -> Result<Option<Proxy>> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |kind, why: &str| {
        Error::new(kind, "registry.proxy", format!("{which} {why}"))
            .hint("write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
    };
    let rest = match text.split_once("://") {
        None => text,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some(("https" | "socks5" | "socks5h" | "socks4", _)) => {
            return Err(wrong(
                ErrorKind::Unsupported,
                "names a proxy that is spoken to by TLS or SOCKS, which is not done",
            ));
        }
        Some(_) => return Err(wrong(ErrorKind::Invalid, "has an unknown scheme")),
    };
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, rest),
    };
    let address = Address::parse(&format!("http://{host}/"))
        .map_err(|why| wrong(ErrorKind::Invalid, &format!("names no proxy: {why}")))?;
    let proof = match user {
        None => None,
        Some(user) => {
            let pair = decoded(user)
                .ok_or_else(|| wrong(ErrorKind::Invalid, "has a broken escape in its password"))?;
            let pair = if pair.contains(&b':') {
                pair
            } else {
                [&pair[..], b":"].concat()
            };
            let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
                .map_err(|_| wrong(ErrorKind::Invalid, "has an unusable password"))?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    Ok(Some(Proxy {
        origin: address.origin,
        proof,
    }))
}

/// Takes `%XX` back (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

fn exception(word: &str) -> Option<Exception> {
    if word.is_empty() {
        return None;
    }
    if word == "*" {
        return Some(Exception::All);
    }
    if let Some((network, bits)) = word.split_once('/') {
        let network: IpAddr = network.parse().ok()?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|bits| *bits <= most)?;
        return Some(Exception::Network(network, bits));
    }
    let word = word.to_ascii_lowercase();
    if let Ok(address) = word.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(Exception::Network(
            address,
            if address.is_ipv4() { 32 } else { 128 },
        ));
    }
    let (name, port) = match word.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (word.as_str(), None),
    };
    let name = name.trim_matches(['[', ']']);
    let below = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
    Some(Exception::Name {
        name: below.unwrap_or(name).to_owned(),
        below_only: below.is_some(),
        port,
    })
}

impl Exception {
    fn covers(&self, to: &Origin, address: Option<IpAddr>) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, bits) => address.is_some_and(|a| within(a, *network, *bits)),
            Self::Name {
                name,
                below_only,
                port,
            } => {
                let below = to
                    .host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                port.is_none_or(|port| port == to.port)
                    && (below || (!below_only && to.host == *name))
            }
        }
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (address.to_canonical(), network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let shift: u32 = width - u32::from(bits);
    a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(proxies: &Proxies, host: &str, tls: bool) -> Option<String> {
        let to = Origin::of_host(host, tls).unwrap();
        proxies.towards(&to).map(|p| p.origin.authority())
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let proxies = Proxies::new("http://a:3128", "b", "").unwrap();
        assert_eq!(through(&proxies, "r.example", true).unwrap(), "a:3128");
        assert_eq!(through(&proxies, "r.example", false).unwrap(), "b");
        for direct in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(through(&proxies, direct, true), None, "{direct}");
        }
        assert_eq!(through(&Proxies::default(), "r.example", true), None);
    }

    #[test]
    fn exceptions_are_reached_directly() {
        let no = "example.com, .below.org,10.0.0.0/8,192.168.1.7,fd00::/8,at.port:5000";
        let proxies = Proxies::new("p", "p", no).unwrap();
        for direct in [
            "example.com",
            "a.example.com",
            "EXAMPLE.com:5000",
            "x.below.org",
            "10.1.2.3",
            "192.168.1.7:5000",
            "[fd00::1]:5000",
            "at.port:5000",
        ] {
            assert_eq!(through(&proxies, direct, true), None, "{direct}");
        }
        for by_proxy in [
            "notexample.com",
            "below.org",
            "11.0.0.1",
            "192.168.1.8",
            "at.port",
            "[fe80::1]",
        ] {
            assert!(through(&proxies, by_proxy, true).is_some(), "{by_proxy}");
        }
        let all = Proxies::new("p", "", "*").unwrap();
        assert_eq!(through(&all, "r.example", true), None);
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_repeating_it() {
        for bad in [
            "https://user:hunter2@p:1",
            "socks5://user:hunter2@p:1",
            "gopher://user:hunter2@p",
            "http://user:hunter2@:99999",
            "http://user:hunter2%zz@p",
        ] {
            let error = Proxies::new(bad, "", "").unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let proxies = Proxies::new("http://me:hunter2%40x@p:1", "", "").unwrap();
        assert!(!format!("{proxies:?}").contains("hunter2"));
        assert!(!format!("{proxies:?}").contains(&STANDARD.encode("me:hunter2@x")));
        let proof = proxies.https.unwrap().proof.unwrap();
        assert_eq!(
            proof.to_str().unwrap(),
            format!("Basic {}", STANDARD.encode("me:hunter2@x"))
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(proxy in "\\PC{0,40}", no in "\\PC{0,60}", host in "[a-z0-9.:]{1,20}") {
            if let (Ok(proxies), Ok(to)) = (Proxies::new(&proxy, "", &no), Origin::of_host(&host, true)) {
                let _ = proxies.towards(&to);
            }
        }
    }
}
