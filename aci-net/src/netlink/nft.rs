//! nf_tables: tables, chains, rules, sets and their elements (`include/uapi/linux/netfilter/
//! nf_tables.h`). Numbers are in network byte order there; values that rules compare are as the
//! packet or the kernel has them.

use std::borrow::Cow;

use super::codec::{CREATE, Request};

/// A name that is fixed or made up for a policy.
pub(crate) type Name = Cow<'static, str>;

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
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const SET_CONCAT: u32 = 0x80;
/// The element ends a span; its key is the first that is not in it.
const INTERVAL_END: u32 = 1;

/// IPv4 and IPv6 as rules see them (`NFPROTO_*`).
pub(crate) const NFPROTO_IPV4: u8 = 2;
/// See [`NFPROTO_IPV4`].
pub(crate) const NFPROTO_IPV6: u8 = 10;

/// The 32-bit registers in which rules keep values; longer values and the further parts of a key are
/// in those that follow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register(u32);

impl Register {
    /// The first one.
    pub(crate) const A: Self = Self(8);

    /// The one behind a value of so many bytes in the first ones.
    pub(crate) const fn after(bytes: u32) -> Self {
        Self(8 + bytes.div_ceil(4))
    }
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

/// Makes a chain that others jump to.
pub(crate) fn new_plain_chain(table: &str, name: &str) -> Request {
    request("create a firewall chain", NEW_CHAIN, CREATE)
        .text(1, table)
        .text(3, name)
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
#[derive(Clone, Debug)]
pub(crate) struct Set {
    /// Its name.
    pub(crate) name: Name,
    /// A number that tells it from others in one transaction.
    pub(crate) id: u32,
    /// The key's type and length in bytes.
    pub(crate) key: (u32, u32),
    /// The value's type and length in bytes, for a map.
    pub(crate) value: Option<(u32, u32)>,
    /// Whether its elements are spans.
    pub(crate) spans: Spans,
}

/// What the elements of a set are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spans {
    /// Single keys.
    No,
    /// Spans: an element begins one, another ends it.
    Yes,
    /// Keys of several parts of these lengths, each a span; an element has its first and last key.
    Parts(&'static [u32]),
}

/// Makes a set or map.
pub(crate) fn new_set(table: &str, set: &Set) -> Request {
    let spans = match set.spans {
        Spans::No => 0,
        Spans::Yes => SET_INTERVAL,
        Spans::Parts(_) => SET_INTERVAL | SET_CONCAT,
    };
    let flags = spans | if set.value.is_some() { SET_MAP } else { 0 };
    let mut request = request("create a firewall set", NEW_SET, CREATE)
        .text(1, table)
        .text(2, &set.name);
    request = be32(request, 3, flags);
    request = be32(request, 4, set.key.0);
    request = be32(request, 5, set.key.1);
    if let Some((kind, length)) = set.value {
        request = be32(request, 6, kind);
        request = be32(request, 7, length);
    }
    if let Spans::Parts(lengths) = set.spans {
        request = request.nest(9, |description| {
            description.nest(2, |mut parts| {
                for length in lengths {
                    parts = parts.nest(LIST_ELEMENT, |part| be32(part, 1, *length));
                }
                parts
            })
        });
    }
    be32(request, 10, set.id)
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    key: Vec<u8>,
    /// The last key of a span of several parts.
    last: Option<Vec<u8>>,
    /// It ends a span.
    end: bool,
    value: Option<Vec<u8>>,
}

impl Element {
    /// A key.
    pub(crate) const fn key(key: Vec<u8>) -> Self {
        Self {
            key,
            last: None,
            end: false,
            value: None,
        }
    }

    /// A key of a map with its value.
    pub(crate) const fn pair(key: Vec<u8>, value: Vec<u8>) -> Self {
        Self {
            key,
            last: None,
            end: false,
            value: Some(value),
        }
    }

    /// The end of the span before it.
    pub(crate) const fn end(key: Vec<u8>) -> Self {
        Self {
            key,
            last: None,
            end: true,
            value: None,
        }
    }

    /// A span of keys of several parts.
    pub(crate) const fn span(first: Vec<u8>, last: Vec<u8>) -> Self {
        Self {
            key: first,
            last: Some(last),
            end: false,
            value: None,
        }
    }
}

fn elements(request: Request, table: &str, set: &str, all: &[Element], values: bool) -> Request {
    request.text(1, table).text(2, set).nest(3, |mut list| {
        for item in all {
            list = list.nest(LIST_ELEMENT, |mut element| {
                element = element.nest(1, |k| k.attr(DATA_VALUE, &item.key));
                if let Some(value) = item.value.as_ref().filter(|_| values) {
                    element = element.nest(2, |v| v.attr(DATA_VALUE, value));
                }
                if item.end {
                    element = be32(element, 3, INTERVAL_END);
                }
                match &item.last {
                    Some(last) => element.nest(10, |k| k.attr(DATA_VALUE, last)),
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
        true,
    )
}

/// Takes elements out of a set or map.
pub(crate) fn delete_elements(table: &str, set: &str, all: &[Element]) -> Request {
    elements(
        request("take from a firewall set", DELETE_ELEMENT, 0),
        table,
        set,
        all,
        false,
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
    /// Loads the link header's sender.
    SenderMac(Register),
    /// Loads the transport header's source port.
    SourcePort(Register),
    /// Loads the transport header's destination port.
    DestinationPort(Register),
    /// Loads bytes that the rule has.
    Load(Register, Vec<u8>),
    /// Goes on if the first bytes are in the span, both ends included.
    Between(Register, Vec<u8>, Vec<u8>),
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
    InSet(Register, Name),
    /// Goes on if the key is not in the set.
    NotInSet(Register, Name),
    /// Goes on if the key is in the map, and loads its value.
    Map(Register, Name, Register),
    /// Goes on in another chain and comes back, if that does not decide.
    Jump(Name),
    /// Goes back to the chain that jumped here.
    Return,
    /// Lets the packet through this chain.
    Accept,
    /// Drops the packet.
    Drop,
    /// Refuses the packet: host unreachable.
    Reject,
    /// Sends the connection to the address in the register.
    Destination(u8, Register),
    /// Sends the connection to the address and port in the registers.
    DestinationAndPort(u8, Register, Register),
    /// Gives the connection the sender's address in the register.
    Source(u8, Register),
    /// Gives the connection the address of the link it goes out by.
    Masquerade,
}

/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

fn expression(list: Request, name: &str, data: impl FnOnce(Request) -> Request) -> Request {
    list.nest(LIST_ELEMENT, |e| e.text(1, name).nest(2, data))
}

fn verdict(list: Request, code: i32, chain: Option<&str>) -> Request {
    expression(list, "immediate", |d| {
        be32(d, 1, 0).nest(2, |data| {
            data.nest(DATA_VERDICT, |v| {
                let v = be32(v, 1, code.cast_unsigned());
                match chain {
                    Some(chain) => v.text(2, chain),
                    None => v,
                }
            })
        })
    })
}

fn lookup(list: Request, register: Register, set: &str, inverted: bool) -> Request {
    expression(list, "lookup", |d| {
        let d = be32(d.text(1, set), 2, register.0);
        if inverted { be32(d, 5, 1) } else { d }
    })
}

/// Address translation: kind 0 changes the sender, 1 the receiver.
fn nat(list: Request, kind: u32, family: u8, address: Register, port: Option<Register>) -> Request {
    expression(list, "nat", |d| {
        let d = be32(d, 1, kind);
        let d = be32(d, 2, u32::from(family));
        let d = be32(d, 3, address.0);
        match port {
            Some(port) => be32(d, 5, port.0),
            None => d,
        }
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
        Step::SenderMac(to) => load(list, 0, 6, 6, *to),
        Step::SourcePort(to) => load(list, 2, 0, 2, *to),
        Step::DestinationPort(to) => load(list, 2, 2, 2, *to),
        Step::Load(to, value) => expression(list, "immediate", |d| {
            be32(d, 1, to.0).nest(2, |data| data.attr(DATA_VALUE, value))
        }),
        Step::Between(register, first, last) => {
            // 5: not less, 3: not greater.
            let list = compare(list, *register, 5, first);
            compare(list, *register, 3, last)
        }
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
        Step::InSet(register, set) => lookup(list, *register, set, false),
        Step::NotInSet(register, set) => lookup(list, *register, set, true),
        Step::Map(register, map, to) => expression(list, "lookup", |d| {
            let d = be32(d.text(1, map), 2, register.0);
            be32(d, 3, to.0)
        }),
        Step::Jump(chain) => verdict(list, -3, Some(chain)),
        Step::Return => verdict(list, -5, None),
        Step::Accept => verdict(list, 1, None),
        Step::Drop => verdict(list, 0, None),
        Step::Reject => expression(list, "reject", |d| be32(d, 1, 2).attr(2, &[2])),
        Step::Destination(family, address) => nat(list, 1, *family, *address, None),
        Step::DestinationAndPort(family, address, port) => {
            nat(list, 1, *family, *address, Some(*port))
        }
        Step::Source(family, address) => nat(list, 0, *family, *address, None),
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
