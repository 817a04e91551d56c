//! What packets mean, over a zone of three groups. Sockets and real resolvers are tried in
//! `bridge/tests/naming.rs`.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

use super::answer::{Verdict, encode, judge, udp_limit};
use super::forward::{Upstreams, matching};
use super::zone::{Found, Member, Zone};
use std::net::IpAddr;
use std::time::Instant;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn member(name: &str, resource_group: &str, address: &str, fqdn: Option<&str>) -> Member {
    Member {
        network: "v".to_owned(),
        subscription: "s".to_owned(),
        resource_group: resource_group.to_owned(),
        hostname: name.to_owned(),
        addresses: vec![
            ip(address),
            ip(&format!("fd00::{}", address.rsplit('.').next().unwrap())),
        ],
        fqdn: fqdn.map(str::to_owned),
        shown: vec![ip(address)],
    }
}

fn zone() -> Zone {
    let ranges = ["10.0.0.0/24", "fd00::/64"].map(|r| r.parse().unwrap());
    let mut far = member("far", "rg", "10.0.0.7", None);
    far.network = "w".to_owned();
    let members = vec![
        member("web", "rg", "10.0.0.4", Some("my-web.local.aci.internal")),
        member("db", "rg", "10.0.0.5", None),
        member("web", "other_rg", "10.0.0.6", None),
        far,
    ];
    Zone::new(
        "aci.internal",
        ranges.to_vec(),
        vec![ip("10.0.0.1")],
        members,
    )
}

fn find(name: &str, asker: &str) -> Found {
    zone().find(&Name::from_ascii(name).unwrap(), ip(asker))
}

fn addresses(of: &[&str]) -> Found {
    let both = |a: &&str| [ip(&format!("10.0.0.{a}")), ip(&format!("fd00::{a}"))];
    Found::Addresses(of.iter().flat_map(both).collect())
}

#[test]
fn who_finds_whom() {
    let shown = Found::Addresses(vec![ip("10.0.0.4")]);
    for asker in ["10.0.0.4", "10.0.0.6", "10.0.0.7", "10.0.0.99"] {
        assert_eq!(find("my-web.local.aci.internal.", asker), shown);
        assert_eq!(find("MY-WEB.Local.ACI.internal.", asker), shown);
        assert_eq!(find("other.local.aci.internal.", asker), Found::Nothing);
        assert_eq!(find("example.com.", asker), Found::Elsewhere);
        assert_eq!(find("xaci.internal.", asker), Found::Elsewhere);
        assert_eq!(find("com.", asker), Found::Elsewhere);
        for node in [
            "aci.internal.",
            "local.aci.internal.",
            "groups.aci.internal.",
        ] {
            assert_eq!(find(node, asker), Found::Addresses(Vec::new()), "{node}");
        }
    }
    // Short names are those of one's own resource group.
    assert_eq!(
        find("web.groups.aci.internal.", "10.0.0.5"),
        addresses(&["4"])
    );
    assert_eq!(find("web.", "10.0.0.5"), addresses(&["4"]));
    assert_eq!(
        find("web.groups.aci.internal.", "10.0.0.6"),
        addresses(&["6"])
    );
    assert_eq!(find("db.groups.aci.internal.", "10.0.0.6"), Found::Nothing);
    assert_eq!(
        find("db.rg.groups.aci.internal.", "10.0.0.6"),
        addresses(&["5"])
    );
    assert_eq!(
        find("web.other-rg.groups.aci.internal.", "10.0.0.5"),
        addresses(&["6"])
    );
    assert_eq!(
        find("web.none.groups.aci.internal.", "10.0.0.5"),
        Found::Nothing
    );
    // Other virtual networks and strangers see no group's own name; the host sees all.
    for asker in ["10.0.0.7", "10.0.0.99"] {
        assert_eq!(find("web.groups.aci.internal.", asker), Found::Nothing);
        assert_eq!(find("web.rg.groups.aci.internal.", asker), Found::Nothing);
        assert_eq!(find("web.", asker), Found::Elsewhere);
    }
    assert_eq!(
        find("web.groups.aci.internal.", "10.0.0.1"),
        addresses(&["4", "6"])
    );
    let pointer = |n: &str| Found::Pointer(Name::from_ascii(n).unwrap());
    let reverse = find("4.0.0.10.in-addr.arpa.", "10.0.0.5");
    assert_eq!(reverse, pointer("my-web.local.aci.internal."));
    let reverse = find("5.0.0.10.in-addr.arpa.", "10.0.0.4");
    assert_eq!(reverse, pointer("db.groups.aci.internal."));
    assert_eq!(
        find("1.2.0.192.in-addr.arpa.", "10.0.0.4"),
        Found::Elsewhere
    );
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn reply(packet: &[u8], source: &str) -> Message {
    match judge(packet, ip(source), &zone()) {
        Verdict::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn code(packet: &[u8], source: &str) -> ResponseCode {
    reply(packet, source).metadata.response_code
}

#[test]
fn questions_about_groups_are_answered_and_others_passed_on() {
    let asked = question("my-web.local.aci.internal.", RecordType::A);
    let answer = reply(&asked.to_vec().unwrap(), "10.0.0.5");
    assert_eq!(answer.metadata.id, asked.metadata.id);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert!(matches!(&answer.answers[0].data, RData::A(a) if a.0.octets() == [10, 0, 0, 4]));
    // There is no address of that family: the name exists, and how long that holds is said.
    let asked = question("my-web.local.aci.internal.", RecordType::AAAA);
    let answer = reply(&asked.to_vec().unwrap(), "10.0.0.5");
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!((answer.answers.len(), answer.authorities.len()), (0, 1));
    let none = question("no.aci.internal.", RecordType::A)
        .to_vec()
        .unwrap();
    assert_eq!(code(&none, "10.0.0.5"), ResponseCode::NXDomain);
    let other = question("example.com.", RecordType::MX).to_vec().unwrap();
    let verdict = judge(&other, ip("10.0.0.5"), &zone());
    assert!(matches!(verdict, Verdict::Forward(_)));
    let mut cold = question("example.com.", RecordType::A);
    cold.metadata.recursion_desired = false;
    assert_eq!(
        code(&cold.to_vec().unwrap(), "10.0.0.5"),
        ResponseCode::Refused
    );
}

#[test]
fn what_is_refused() {
    let good = question("my-web.local.aci.internal.", RecordType::A);
    let packet = good.to_vec().unwrap();
    for stranger in ["192.0.2.1", "10.0.1.4", "fd01::4", "127.0.0.1"] {
        let answer = reply(&packet, stranger);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        assert!(
            answer.to_vec().unwrap().len() <= packet.len(),
            "nothing to amplify"
        );
    }
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        let all = question("aci.internal.", kind).to_vec().unwrap();
        assert_eq!(code(&all, "10.0.0.5"), ResponseCode::Refused);
    }
    let mut update = packet.clone();
    update[2] |= 5 << 3;
    assert_eq!(code(&update, "10.0.0.5"), ResponseCode::NotImp);
    assert_eq!(
        code(&packet[..packet.len() - 3], "10.0.0.5"),
        ResponseCode::FormErr
    );
    let mut many = packet.clone();
    many[4..6].copy_from_slice(&[255, 255]);
    assert_eq!(code(&many, "10.0.0.5"), ResponseCode::FormErr);
    let mut newer = good.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    assert_eq!(
        code(&newer.to_vec().unwrap(), "10.0.0.5"),
        ResponseCode::BADVERS
    );
    // An answer is never answered: two servers would talk for ever.
    let mut answer = packet;
    answer[2] |= 0x80;
    assert!(matches!(
        judge(&answer, ip("10.0.0.5"), &zone()),
        Verdict::Drop
    ));
}

#[test]
fn long_answers_are_cut_for_udp() {
    let members = (0..200u8).map(|i| member("many", "rg", &format!("10.0.0.{i}"), None));
    let ranges = vec!["10.0.0.0/24".parse().unwrap()];
    let zone = Zone::new("aci.internal", ranges, Vec::new(), members.collect());
    let mut asked = question("many.", RecordType::A);
    let ask = |asked: &Message| {
        let packet = asked.to_vec().unwrap();
        let Verdict::Reply(reply) = judge(&packet, ip("10.0.0.5"), &zone) else {
            panic!("no answer");
        };
        assert_eq!(reply.answers.len(), 200);
        (reply, udp_limit(&packet))
    };
    let (answer, limit) = ask(&asked);
    assert_eq!(limit, 512);
    let cut = Message::from_vec(&encode(&answer, limit).unwrap()).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = Message::from_vec(&encode(&answer, 65_535).unwrap()).unwrap();
    assert_eq!(
        (whole.metadata.truncation, whole.answers.len()),
        (false, 200)
    );
    let mut edns = Edns::new();
    edns.set_max_payload(65_000);
    asked.set_edns(edns);
    assert_eq!(ask(&asked).1, 1232);
}

#[test]
fn a_stranger_s_answer_is_not_taken() {
    let asked = question("example.com.", RecordType::A);
    let mut answer = asked.clone();
    answer.metadata.message_type = MessageType::Response;
    let take = |m: &Message| matching(&asked, &m.to_vec().unwrap()).is_some();
    assert!(take(&answer) && !take(&asked));
    let mut other = answer.clone();
    other.metadata.id ^= 1;
    assert!(!take(&other));
    let mut other = answer;
    other.queries = question("example.org.", RecordType::A).queries;
    assert!(!take(&other));
}

#[test]
fn our_own_addresses_are_never_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    std::fs::write(
        &file,
        "nameserver 10.0.0.1\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n",
    )
    .unwrap();
    let upstreams = Upstreams::new(None, file, vec![ip("10.0.0.1")]);
    let list = upstreams.list(Instant::now());
    assert_eq!(
        list,
        ["127.0.0.53:53", "192.0.2.1:53"].map(|a| a.parse().unwrap())
    );
}

/// Whatever comes in: no panic, at most one answer, which is to the question and fits.
fn fuzz(packet: &[u8], source: IpAddr) {
    match judge(packet, source, &zone()) {
        Verdict::Drop => assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
        Verdict::Reply(reply) => {
            let limit = udp_limit(packet);
            let bytes = encode(&reply, limit).unwrap();
            assert!(bytes.len() <= limit.max(512));
            assert_eq!(bytes[..2], packet[..2]);
            assert!(bytes[2] & 0x80 != 0);
            Message::from_vec(&bytes).unwrap();
        }
        Verdict::Forward(ask) => {
            assert!(zone().serves(source));
            assert_eq!(ask.reply.metadata.op_code, OpCode::Query);
        }
    }
    let asked = question("example.com.", RecordType::A);
    let _ = matching(&asked, packet);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_packet_is_survived(packet in proptest::collection::vec(any::<u8>(), 0..600), inside: bool) {
        fuzz(&packet, ip(if inside { "10.0.0.5" } else { "192.0.2.1" }));
    }

    /// Near misses: good questions with some bytes changed.
    #[test]
    fn any_damage_is_survived(
        which in 0usize..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let name = ["my-web.local.aci.internal.", "web.", "example.com.", "4.0.0.10.in-addr.arpa."][which];
        let mut message = question(name, RecordType::A);
        message.set_edns(Edns::new());
        let mut packet = message.to_vec().unwrap();
        for (at, value) in changes {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        let keep = packet.len() - cut.index(packet.len()) / 8;
        fuzz(&packet[..keep], ip("10.0.0.5"));
    }

    /// Every name that a zone has is found, and only as it is spelt.
    #[test]
    fn any_name_is_looked_up(labels in proptest::collection::vec("[a-zA-Z0-9_-]{1,12}", 0..6)) {
        let text = format!("{}.", labels.join("."));
        if let Ok(name) = Name::from_ascii(&text) {
            let inside = text.to_lowercase().ends_with(".aci.internal.");
            let found = zone().find(&name, ip("10.0.0.5"));
            prop_assert!(!inside || found != Found::Elsewhere);
        }
    }
}
