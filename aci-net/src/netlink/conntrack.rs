//! Connections that the kernel knows (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).

use std::net::IpAddr;

use rustix::io::Errno;

use super::codec::{Request, attributes};
use super::{Refusal, Socket};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;
/// Requests in one datagram.
const CHUNK: usize = 64;

/// A known connection.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Who began it.
    pub(crate) from: IpAddr,
    /// Where the first packet was sent to.
    pub(crate) to: IpAddr,
    /// The protocol's number.
    pub(crate) protocol: u8,
    /// The port that it was sent to, or 0.
    pub(crate) port: u16,
    /// Who answers; another one than `to` if the destination was changed.
    pub(crate) answers: IpAddr,
    family: u8,
    /// What names it to the kernel: kind and content of attributes.
    name: Vec<(u16, Vec<u8>)>,
}

fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn find(list: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(list)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// Sender and receiver of a tuple.
fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let ip = find(tuple, TUPLE_IP)?;
    let v4 = |kind| Some(IpAddr::from(<[u8; 4]>::try_from(find(ip, kind)?).ok()?));
    let v6 = |kind| Some(IpAddr::from(<[u8; 16]>::try_from(find(ip, kind)?).ok()?));
    Some((v4(1).or_else(|| v6(3))?, v4(2).or_else(|| v6(4))?))
}

fn read(body: &[u8]) -> Option<Flow> {
    let list = body.get(4..)?;
    let original = find(list, TUPLE_ORIGINAL)?;
    let (from, to) = addresses(original)?;
    let (answers, _) = addresses(find(list, TUPLE_REPLY)?)?;
    let protocol = find(original, TUPLE_PROTOCOL)?;
    let port = find(protocol, 3)
        .and_then(|p| p.first_chunk())
        .map_or(0, |p| u16::from_be_bytes(*p));
    let mut name = vec![(TUPLE_ORIGINAL | NESTED, original.to_vec())];
    for kind in [ID, ZONE] {
        name.extend(find(list, kind).map(|value| (kind, value.to_vec())));
    }
    Some(Flow {
        from,
        to,
        protocol: *find(protocol, 1)?.first()?,
        port,
        answers,
        family: *body.first()?,
        name,
    })
}

/// Makes the kernel forget the connections that are chosen; returns how many.
pub(crate) fn forget(
    socket: &mut Socket,
    mut chosen: impl FnMut(&Flow) -> bool,
) -> Result<usize, Refusal> {
    let list = Request::new("list connections", GET, 0).raw(&header(0));
    let flows = socket.dump(&list, |body| read(body).filter(|f| chosen(f)))?;
    for chunk in flows.chunks(CHUNK) {
        let requests = chunk
            .iter()
            .map(|flow| {
                let request =
                    Request::new("forget a connection", DELETE, 0).raw(&header(flow.family));
                flow.name
                    .iter()
                    .fold(request, |r, (kind, value)| r.attr(*kind, value))
            })
            .collect();
        for answer in socket.batch(requests) {
            // It may have ended by itself.
            if let Err(refusal) = answer
                && refusal.errno != Errno::NOENT
            {
                return Err(refusal);
            }
        }
    }
    Ok(flows.len())
}
