//! nf_tables: tables, chains, rules, sets and their elements (`include/uapi/linux/netfilter/
//! nf_tables.h`). Numbers are in network byte order there; values that rules compare are as the
//! packet or the kernel has them.

use super::codec::{CREATE, Request};

/// `NETLINK_NETFILTER`.
pub(crate) const PROTOCOL: isize = 12;

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY_INET: u8 = 1;
const APPEND: u16 = 0x800;
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const SET_MAP: u32 = 8;

/// IPv4 and IPv6 as rules see them (`NFPROTO_*`).
pub(crate) const NFPROTO_IPV4: u8 = 2;
/// See [`NFPROTO_IPV4`].
pub(crate) const NFPROTO_IPV6: u8 = 10;

/// The 32-bit registers in which rules keep values; a key of several parts is in several that
/// follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register(u32);

impl Register {
    /// The first one.
    pub(crate) const A: Self = Self(8);
    /// The one after it.
    pub(crate) const B: Self = Self(9);
    /// The third.
    pub(crate) const C: Self = Self(10);
}

/// Where a chain sits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// `NF_INET_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub(crate) number: u32,
    /// Smaller is earlier.
    pub(crate) priority: i32,
}

/// What the kernel knows of a packet (`NFT_META_*`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meta {
    /// The index of the link it came in by.
    Iif = 4,
    /// IPv4 or IPv6.
    NfProto = 15,
    /// TCP, UDP, ...
    L4Proto = 16,
    /// The group of the link it came in by.
    IifGroup = 21,
    /// The group of the link it goes out by.
    OifGroup = 22,
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn request(what: &'static str, kind: u16, flags: u16) -> Request {
    Request::new(what, kind, flags).raw(&header(FAMILY_INET, 0))
}

fn be32(request: Request, kind: u16, value: u32) -> Request {
    request.attr(kind, &value.to_be_bytes())
}

/// The message that begins a transaction.
pub(crate) fn begin() -> Request {
    Request::new("change the firewall", BATCH_BEGIN, 0).raw(&header(0, 10))
}

/// The message that ends a transaction and puts it in force.
pub(crate) fn end() -> Request {
    Request::new("change the firewall", BATCH_END, 0).raw(&header(0, 10))
}

/// Makes a table, if it is not there.
pub(crate) fn new_table(name: &str) -> Request {
    request("create a firewall table", NEW_TABLE, CREATE).text(1, name)
}

/// Names of all tables.
#[cfg(test)]
pub(crate) fn tables(socket: &mut super::Socket) -> Result<Vec<String>, super::Refusal> {
    let list = Request::new("list firewall tables", SUBSYSTEM | 1, 0).raw(&header(0, 0));
    socket.dump(&list, |body| {
        super::codec::attributes(body.get(4..)?)
            .find(|(kind, _)| *kind == 1)
            .map(|(_, name)| super::codec::read_text(name))
    })
}

/// Deletes a table with everything in it.
pub(crate) fn delete_table(name: &str) -> Request {
    request("delete the firewall table", DELETE_TABLE, 0).text(1, name)
}

/// Makes a chain at a hook; what it does not judge is let through.
pub(crate) fn new_chain(table: &str, name: &str, hook: Hook) -> Request {
    let request = request("create a firewall chain", NEW_CHAIN, CREATE)
        .text(1, table)
        .text(3, name)
        .nest(4, |nested| {
            let nested = be32(nested, 1, hook.number);
            be32(nested, 2, hook.priority.cast_unsigned())
        });
    be32(request, 5, 1).text(7, hook.kind)
}

/// A set or map of fixed sizes; `types` are what tools show (`nft list`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Set {
    /// Its name.
    pub(crate) name: &'static str,
    /// A number that tells it from others in one transaction.
    pub(crate) id: u32,
    /// The key's type and length in bytes.
    pub(crate) key: (u32, u32),
    /// The value's type and length in bytes, for a map.
    pub(crate) value: Option<(u32, u32)>,
}

/// Makes a set or map.
pub(crate) fn new_set(table: &str, set: &Set) -> Request {
    let flags = if set.value.is_some() { SET_MAP } else { 0 };
    let mut request = request("create a firewall set", NEW_SET, CREATE)
        .text(1, table)
        .text(2, set.name);
    request = be32(request, 3, flags);
    request = be32(request, 4, set.key.0);
    request = be32(request, 5, set.key.1);
    if let Some((kind, length)) = set.value {
        request = be32(request, 6, kind);
        request = be32(request, 7, length);
    }
    be32(request, 10, set.id)
}

/// An element: a key, and the value of a map.
pub(crate) type Element = (Vec<u8>, Option<Vec<u8>>);

fn elements(request: Request, table: &str, set: &str, all: &[Element]) -> Request {
    request.text(1, table).text(2, set).nest(3, |mut list| {
        for (key, value) in all {
            list = list.nest(LIST_ELEMENT, |element| {
                let element = element.nest(1, |k| k.attr(DATA_VALUE, key));
                match value {
                    Some(value) => element.nest(2, |v| v.attr(DATA_VALUE, value)),
                    None => element,
                }
            });
        }
        list
    })
}

/// Puts elements into a set or map.
pub(crate) fn add_elements(table: &str, set: &str, all: &[Element]) -> Request {
    elements(
        request("add to a firewall set", NEW_ELEMENT, CREATE),
        table,
        set,
        all,
    )
}

/// Takes elements out of a set or map.
pub(crate) fn delete_elements(table: &str, set: &str, all: &[Element]) -> Request {
    elements(
        request("take from a firewall set", DELETE_ELEMENT, 0),
        table,
        set,
        all,
    )
}

/// One step of a rule; a rule goes on while its steps match.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Loads what the kernel knows of the packet.
    Meta(Meta, Register),
    /// Loads bytes of the network header.
    Network {
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Loads the transport header's destination port.
    DestinationPort(Register),
    /// Goes on if equal.
    Equal(Register, Vec<u8>),
    /// Goes on if not equal.
    NotEqual(Register, Vec<u8>),
    /// Keeps the bits of a mask.
    Mask(Register, Vec<u8>),
    /// Loads the connection's state bits.
    ConnectionState(Register),
    /// Loads the connection's status bits.
    ConnectionStatus(Register),
    /// Goes on if the packet is to an address of this host.
    ToThisHost(Register),
    /// Goes on if the sender's address is not routed over the link that the packet came in by.
    FromElsewhere(Register),
    /// Goes on if the key is in the set.
    InSet(Register, &'static str),
    /// Goes on if the key is in the map, and loads its value.
    Map(Register, &'static str, Register),
    /// Lets the packet through this chain.
    Accept,
    /// Drops the packet.
    Drop,
    /// Refuses the packet: host unreachable.
    Reject,
    /// Sends the connection to the address in the register.
    Destination(u8, Register),
    /// Gives the connection the address of the link it goes out by.
    Masquerade,
}

/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

fn expression(list: Request, name: &str, data: impl FnOnce(Request) -> Request) -> Request {
    list.nest(LIST_ELEMENT, |e| e.text(1, name).nest(2, data))
}

fn verdict(list: Request, code: u32) -> Request {
    expression(list, "immediate", |d| {
        be32(d, 1, 0).nest(2, |data| data.nest(DATA_VERDICT, |v| be32(v, 1, code)))
    })
}

fn compare(list: Request, register: Register, operation: u32, value: &[u8]) -> Request {
    expression(list, "cmp", |d| {
        let d = be32(d, 1, register.0);
        be32(d, 2, operation).nest(3, |data| data.attr(DATA_VALUE, value))
    })
}

fn load(list: Request, base: u32, offset: u32, length: u32, to: Register) -> Request {
    expression(list, "payload", |d| {
        let d = be32(d, 1, to.0);
        let d = be32(d, 2, base);
        let d = be32(d, 3, offset);
        be32(d, 4, length)
    })
}

fn write(list: Request, step: &Step) -> Request {
    match step {
        Step::Meta(key, to) => expression(list, "meta", |d| {
            let d = be32(d, 1, to.0);
            be32(d, 2, *key as u32)
        }),
        Step::Network { offset, length, to } => load(list, 1, *offset, *length, *to),
        Step::DestinationPort(to) => load(list, 2, 2, 2, *to),
        Step::Equal(register, value) => compare(list, *register, 0, value),
        Step::NotEqual(register, value) => compare(list, *register, 1, value),
        Step::Mask(register, mask) => expression(list, "bitwise", |d| {
            let d = be32(d, 1, register.0);
            let d = be32(d, 2, register.0);
            let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
            be32(d, 3, length)
                .nest(4, |m| m.attr(DATA_VALUE, mask))
                .nest(5, |x| x.attr(DATA_VALUE, &vec![0; mask.len()]))
        }),
        Step::ConnectionState(to) => expression(list, "ct", |d| {
            let d = be32(d, 1, to.0);
            be32(d, 2, 0)
        }),
        Step::ConnectionStatus(to) => expression(list, "ct", |d| {
            let d = be32(d, 1, to.0);
            be32(d, 2, 2)
        }),
        Step::ToThisHost(through) => {
            let list = expression(list, "fib", |d| {
                let d = be32(d, 1, through.0);
                let d = be32(d, 2, 3);
                be32(d, 3, 2)
            });
            compare(list, *through, 0, &LOCAL.to_ne_bytes())
        }
        Step::FromElsewhere(through) => {
            // The link of the route to the sender over that link, or none; flags: saddr, iif.
            let list = expression(list, "fib", |d| {
                let d = be32(d, 1, through.0);
                let d = be32(d, 2, 1);
                be32(d, 3, 1 | 8)
            });
            compare(list, *through, 0, &[0; 4])
        }
        Step::InSet(register, set) => {
            expression(list, "lookup", |d| be32(d.text(1, set), 2, register.0))
        }
        Step::Map(register, map, to) => expression(list, "lookup", |d| {
            let d = be32(d.text(1, map), 2, register.0);
            be32(d, 3, to.0)
        }),
        Step::Accept => verdict(list, 1),
        Step::Drop => verdict(list, 0),
        Step::Reject => expression(list, "reject", |d| be32(d, 1, 2).attr(2, &[2])),
        Step::Destination(family, address) => expression(list, "nat", |d| {
            let d = be32(d, 1, 1);
            let d = be32(d, 2, u32::from(*family));
            be32(d, 3, address.0)
        }),
        Step::Masquerade => expression(list, "masq", |d| d),
    }
}

/// Adds a rule at the end of a chain.
pub(crate) fn new_rule(table: &str, chain: &str, steps: &[Step]) -> Request {
    request("add a firewall rule", NEW_RULE, CREATE | APPEND)
        .text(1, table)
        .text(2, chain)
        .nest(4, |list| steps.iter().fold(list, write))
}
