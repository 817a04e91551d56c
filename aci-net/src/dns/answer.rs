//! What a packet means and what is answered. Nothing here waits or remembers.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Found, Zone};

/// The largest UDP answer that is sent or asked for; it passes every link in one piece.
pub(super) const UDP_PAYLOAD: u16 = 1232;
/// The largest UDP answer to who says nothing of larger ones.
const PLAIN_PAYLOAD: u16 = 512;
/// How long answers about groups may be kept; groups come and go.
const TTL: u32 = 5;
/// The length of a header.
const HEADER: usize = 12;

/// What is to be done with a packet.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing: it is no question.
    Drop,
    /// This is the answer.
    Reply(Message),
    /// Others have to be asked.
    Forward(Ask),
}

/// A question for others.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// The question.
    pub(super) query: Query,
    /// The empty answer: id, flags and EDNS as the client is to see them.
    pub(super) reply: Message,
    /// Whether signatures are wanted.
    pub(super) dnssec: bool,
}

/// Judges a packet from an address.
pub(super) fn judge(packet: &[u8], source: IpAddr, zone: &Zone) -> Verdict {
    let Some(header) = packet.get(..HEADER) else {
        return Verdict::Drop;
    };
    if header[2] & 0x80 != 0 {
        return Verdict::Drop;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let op_code = OpCode::from_u8(header[2] >> 3 & 15);
    let error = |code| Verdict::Reply(Message::error_msg(id, op_code, code));
    if !zone.serves(source) {
        return error(ResponseCode::Refused);
    }
    if op_code != OpCode::Query {
        return error(ResponseCode::NotImp);
    }
    // One question and no answers; more would only cost memory.
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if count(4) != 1 || count(6) != 0 || count(8) > 1 || count(10) > 8 {
        return error(ResponseCode::FormErr);
    }
    let Ok(request) = Message::from_vec(packet) else {
        return error(ResponseCode::FormErr);
    };
    let Some(query) = request.queries.first().cloned() else {
        return error(ResponseCode::FormErr);
    };
    let mut reply = Message::new(id, MessageType::Response, op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    let mut dnssec = false;
    if let Some(edns) = &request.edns {
        let mut own = Edns::new();
        own.set_max_payload(UDP_PAYLOAD);
        own.set_version(0);
        dnssec = edns.flags().dnssec_ok;
        own.set_dnssec_ok(dnssec);
        reply.set_edns(own);
        if edns.version() > 0 {
            reply.metadata.response_code = ResponseCode::BADVERS;
            return Verdict::Reply(reply);
        }
    }
    let refuse = |mut reply: Message| {
        reply.metadata.response_code = ResponseCode::Refused;
        Verdict::Reply(reply)
    };
    // Zone transfers would tell one tenant of all others.
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if transfer || query.query_class() != DNSClass::IN {
        return refuse(reply);
    }
    match zone.find(query.name(), source) {
        Found::Elsewhere if !request.metadata.recursion_desired => refuse(reply),
        Found::Elsewhere => Verdict::Forward(Ask {
            query,
            reply,
            dnssec,
        }),
        found => Verdict::Reply(own(reply, &query, found, zone)),
    }
}

/// The answer about a name of ours.
fn own(mut reply: Message, query: &Query, found: Found, zone: &Zone) -> Message {
    reply.metadata.authoritative = true;
    let kind = query.query_type();
    let mut add = |data| {
        reply.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
    };
    let mut missing = false;
    match found {
        Found::Addresses(addresses) => {
            for address in addresses {
                match address {
                    IpAddr::V4(v4) if matches!(kind, RecordType::A | RecordType::ANY) => {
                        add(RData::A(A(v4)));
                    }
                    IpAddr::V6(v6) if matches!(kind, RecordType::AAAA | RecordType::ANY) => {
                        add(RData::AAAA(AAAA(v6)));
                    }
                    _ => {}
                }
            }
        }
        Found::Pointer(name) if matches!(kind, RecordType::PTR | RecordType::ANY) => {
            add(RData::PTR(PTR(name)));
        }
        Found::Pointer(_) => {}
        Found::Nothing | Found::Elsewhere => missing = true,
    }
    if missing {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    if let (true, Ok(apex)) = (
        reply.answers.is_empty(),
        Name::from_ascii(format!("{}.", zone.apex())),
    ) {
        let soa = SOA::new(apex.clone(), apex.clone(), 1, 3600, 600, 86_400, TTL);
        let asked = kind == RecordType::SOA && *query.name() == apex;
        let record = Record::from_rdata(apex, TTL, RData::SOA(soa));
        if asked {
            reply.add_answer(record);
        } else {
            reply.add_authority(record);
        }
    }
    reply
}

/// The answer that nobody could be asked.
pub(super) fn failed(ask: &Ask) -> Message {
    let mut reply = ask.reply.clone();
    reply.metadata.response_code = ResponseCode::ServFail;
    reply
}

/// Another server's answer as this client is to see it.
pub(super) fn relay(ask: &Ask, theirs: &Message) -> Message {
    let mut reply = ask.reply.clone();
    reply.metadata.response_code = theirs.metadata.response_code;
    reply.metadata.authentic_data = theirs.metadata.authentic_data;
    // Extended codes need EDNS, which this client may not speak.
    if reply.edns.is_none() && theirs.metadata.response_code.high() > 0 {
        reply.metadata.response_code = ResponseCode::ServFail;
    }
    reply.answers.clone_from(&theirs.answers);
    reply.authorities.clone_from(&theirs.authorities);
    reply.additionals.clone_from(&theirs.additionals);
    reply
}

/// The largest answer that a UDP client takes, by its question's bytes.
pub(super) fn udp_limit(packet: &[u8]) -> usize {
    let payload = Message::from_vec(packet)
        .ok()
        .and_then(|message| message.edns.map(|edns| edns.max_payload()))
        .unwrap_or(PLAIN_PAYLOAD);
    usize::from(payload.clamp(PLAIN_PAYLOAD, UDP_PAYLOAD))
}

/// The bytes of an answer of at most `limit`; one that is longer says so and is empty.
pub(super) fn encode(reply: &Message, limit: usize) -> Option<Vec<u8>> {
    let whole = reply.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    whole.or_else(|| reply.truncate().to_vec().ok())
}
