//! Names, asked by real resolvers from inside groups: `dig`, the C library's (`getent`) and
//! BusyBox's.

use std::net::SocketAddr;
use std::process::Command;

use aci_core::contract::DnsSettings;
use aci_core::model::{DnsNameLabelReusePolicy, Port};

use super::*;
use crate::bridge::tests::lab::{Group, within};

fn labelled(group: &Group, label: &str, policy: Option<DnsNameLabelReusePolicy>) -> AttachRequest {
    AttachRequest {
        group: aci_core::id::GroupRef::new("s", "rg", group.id.as_str()),
        location: "West Europe".to_owned(),
        ip_address: Some(IpAddress {
            type_: IpAddressType::Public,
            dns_name_label: Some(label.to_owned()),
            dns_name_label_reuse_policy: policy,
            ports: vec![Port {
                port: 80,
                ..Port::default()
            }],
            ..IpAddress::default()
        }),
        ..group.request()
    }
}

/// A program's output, run in a group with the `resolv.conf` that its containers have.
fn run(group: &Group, dns: &DnsSettings, words: &[&str]) -> String {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let mut text = String::new();
    for server in &dns.name_servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text.push_str(&format!("search {}\n", dns.search.join(" ")));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    within(&group.namespace, || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let place = std::fs::canonicalize("/etc/resolv.conf").unwrap();
        mount(Some(file.path()), &place, none, MsFlags::MS_BIND, none).unwrap();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        format!("{text}{}", String::from_utf8_lossy(&output.stderr))
    })
}

fn dig(group: &Group, dns: &DnsSettings, words: &[&str]) -> String {
    let mut all = vec!["dig", "+tries=1", "+time=5"];
    all.extend(words);
    run(group, dns, &all)
}

/// A program that asks musl for a name's IPv4 address.
fn musl_lookup(lab: &Lab) -> std::path::PathBuf {
    let (source, program) = (lab.path("lookup.c"), lab.path("lookup"));
    let text = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int error = argc == 2 ? getaddrinfo(argv[1], "80", &hints, &found) : 2;
    if (error) { puts(gai_strerror(error)); return 1; }
    puts(inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr));
    return 0;
}
"#;
    std::fs::write(&source, text).unwrap();
    let output = Command::new("musl-gcc")
        .args(["-static", "-o"])
        .args([&program, &source])
        .output()
        .expect("musl-gcc (Debian package musl-tools)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    program
}

/// A resolver beside the host that knows one name, which is too long for UDP if asked for TXT.
fn upstream(namespace: &OwnedFd, at: &str) {
    use hickory_proto::op::{Message, MessageType, ResponseCode};
    use hickory_proto::rr::rdata::{A, TXT};
    use hickory_proto::rr::{RData, Record, RecordType};
    fn answer(packet: &[u8], udp: bool) -> Vec<u8> {
        let mut message = Message::from_vec(packet).unwrap();
        let query = message.queries[0].clone();
        message.metadata.message_type = MessageType::Response;
        let mut add = |data| {
            message.add_answer(Record::from_rdata(query.name().clone(), 60, data));
        };
        match query.query_type() {
            RecordType::A if query.name().to_ascii().starts_with("www.") => {
                add(RData::A(A([203, 0, 113, 9].into())));
            }
            RecordType::TXT => {
                for i in 0..20 {
                    add(RData::TXT(TXT::new(vec![format!(
                        "{i}-{}",
                        "x".repeat(200)
                    )])));
                }
            }
            _ => message.metadata.response_code = ResponseCode::NXDomain,
        }
        let whole = message.to_vec().unwrap();
        if udp && whole.len() > 1232 {
            return message.truncate().to_vec().unwrap();
        }
        whole
    }
    let at: SocketAddr = format!("{at}:53").parse().unwrap();
    let udp = lab::listen_udp(namespace, at);
    udp.set_read_timeout(None).unwrap();
    let tcp = within(namespace, || std::net::TcpListener::bind(at).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&answer(&buffer[..length], true), from);
        }
    });
    thread::spawn(move || {
        use std::io::{Read, Write};
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut packet).unwrap();
            let bytes = answer(&packet, false);
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &bytes].concat()).unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn real_resolvers_find_groups_and_the_rest() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let outside = lab::Outside::new(&lab, "up0", "192.0.2.1", "192.0.2.9");
    upstream(&outside.namespace, "192.0.2.9");
    let options = || {
        lab.options()
            .name_servers(["192.0.2.9:53".parse().unwrap()])
            .network(VirtualNetwork::single("10.88.0.0/16".parse().unwrap()).unwrap())
    };
    let network = BridgeNetwork::open(options()).await.unwrap();
    assert!(network.capability().names);
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = network.attach(labelled(&a, "my-web", None)).await.unwrap();
    let tenant = Some(DnsNameLabelReusePolicy::TenantReuse);
    let at_b = network
        .attach(labelled(&b, "my-web", tenant))
        .await
        .unwrap();
    let name = at_a.fqdn.clone().unwrap();
    assert_eq!(name, "my-web.westeurope.aci.internal");
    let address = at_a.ip.unwrap().to_string();
    let gateway: IpAddr = "10.88.0.1".parse().unwrap();
    assert_eq!(at_b.dns.name_servers, [gateway]);
    let dns = &at_b.dns;

    // dig: UDP, TCP, with EDNS and without.
    for extra in [&["+noedns"][..], &["+bufsize=4096"], &["+tcp"]] {
        let words: Vec<&str> = [&["+short", &name][..], extra].concat();
        assert_eq!(dig(&b, dns, &words).trim(), address, "{extra:?}");
    }
    let hashed = at_b.fqdn.clone().unwrap();
    assert_eq!(
        dig(&a, dns, &["+short", &hashed]).trim(),
        at_b.ip.unwrap().to_string()
    );
    assert!(dig(&b, dns, &[&name]).contains(" aa "), "authoritative");
    assert_eq!(
        dig(&b, dns, &["+short", "-x", &address]).trim(),
        format!("{name}.")
    );
    assert!(dig(&b, dns, &["nobody.westeurope.aci.internal"]).contains("NXDOMAIN"));
    assert!(dig(&b, dns, &["aci.internal", "AXFR"]).contains("Transfer failed"));
    // What others know, also when it is long.
    assert_eq!(
        dig(&b, dns, &["+short", "www.example.com"]).trim(),
        "203.0.113.9"
    );
    assert!(dig(&b, dns, &["none.example.com"]).contains("NXDOMAIN"));
    assert_eq!(
        dig(&b, dns, &["+short", "long.example.com", "TXT"])
            .lines()
            .count(),
        20
    );
    let cut = dig(&b, dns, &["+ignore", "long.example.com", "TXT"]);
    assert!(cut.contains(" tc "), "{cut}");
    // The C library and BusyBox, by full names and by the group's own.
    for wanted in [name.as_str(), "a-test"] {
        let found = run(&b, dns, &["getent", "ahostsv4", wanted]);
        assert!(found.starts_with(&address), "{wanted}: {found}");
        let found = run(&b, dns, &["busybox", "nslookup", wanted]);
        assert!(found.contains(&address), "{wanted}: {found}");
    }
    let found = run(&b, dns, &["getent", "ahostsv4", "www.example.com"]);
    assert!(found.starts_with("203.0.113.9"), "{found}");
    // The same with the library that Alpine's images have.
    let musl = musl_lookup(&lab);
    for (wanted, expected) in [
        (name.as_str(), address.as_str()),
        ("a-test", &address),
        ("www.example.com", "203.0.113.9"),
    ] {
        let found = run(&b, dns, &[musl.to_str().unwrap(), wanted]);
        assert_eq!(found.trim(), expected, "{wanted}");
    }
    // From outside nothing is told.
    let stranger = Group {
        id: "stranger".parse().unwrap(),
        namespace: Arc::new(outside.namespace.try_clone().unwrap()),
    };
    let refused = dig(&stranger, dns, &["+time=1", "@10.88.0.1", &name]);
    assert!(!refused.contains(&address), "{refused}");

    // A label taken twice.
    let c = lab.group("c");
    let taken = network
        .attach(labelled(&c, "my-web", None))
        .await
        .unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(taken.aci_code(), Some("DnsNameLabelNotAvailable"));
    // The next program knows the names, and takes the port over.
    drop(network);
    let network = BridgeNetwork::open(options()).await.unwrap();
    assert_eq!(dig(&b, dns, &["+short", &name]).trim(), address);
    let taken = network
        .attach(labelled(&c, "my-web", None))
        .await
        .unwrap_err();
    assert_eq!(taken.aci_code(), Some("DnsNameLabelNotAvailable"));
    network.detach(&a.id).await.unwrap();
    assert!(dig(&b, dns, &[&name]).contains("NXDOMAIN"));
    let at_c = network.attach(labelled(&c, "my-web", None)).await.unwrap();
    assert_eq!(
        dig(&b, dns, &["+short", &name]).trim(),
        at_c.ip.unwrap().to_string()
    );
    for group in [&b, &c] {
        network.detach(&group.id).await.unwrap();
    }
}

/// Another server has the port: groups come up with the host's resolvers, labels are refused with
/// the reason.
#[tokio::test]
async fn a_port_that_is_taken_is_said() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let _other = lab::listen_udp(&lab.host, "0.0.0.0:53".parse().unwrap());
    let file = lab.path("resolv.conf");
    std::fs::write(&file, "nameserver 192.0.2.9\n").unwrap();
    let network = BridgeNetwork::open(lab.options().resolv_conf(file))
        .await
        .unwrap();
    let (a, b) = (lab.group("a"), lab.group("b"));
    let plain = network.attach(a.request()).await.unwrap();
    assert_eq!(
        plain.dns.name_servers,
        ["192.0.2.9".parse::<IpAddr>().unwrap()]
    );
    let error = network
        .attach(labelled(&b, "my-web", None))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("port 53"), "{error}");
    network.detach(&a.id).await.unwrap();
}
