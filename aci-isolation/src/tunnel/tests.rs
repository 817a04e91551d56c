//! Tests of the line: the state machine against itself and against garbage, and the pump with real
//! descriptors.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::cutter::{Cutter, Part};
use super::mux::{DATA, End, Event, Mux, Side, WINDOW};
use super::pump::{Hooks, Over, Pump, pair};
use super::wire::{self, Greeting};
use crate::protocol::{frame, socket};

fn greeting(tag: u32) -> Greeting {
    Greeting {
        tag,
        version: 1,
        now: 2,
    }
}

/// Carries everything that is pending from one side to the other, in pieces of some size.
fn carry(from: &mut Mux, to: &mut Mux, size: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while !from.pending().is_empty() {
        let piece: Vec<u8> = from.pending().iter().copied().take(size).collect();
        from.wrote(piece.len());
        to.receive(&piece, &mut events).unwrap();
    }
    events
}

fn connected() -> (Mux, Mux) {
    let (mut host, mut guest) = (Mux::new(Side::Host), Mux::new(Side::Guest));
    host.greet(greeting(7));
    let met = carry(&mut host, &mut guest, 1000);
    assert_eq!(met, [Event::Greeted(greeting(7))]);
    let met = carry(&mut guest, &mut host, 1000);
    assert_eq!(met, [Event::Greeted(greeting(7))]);
    (host, guest)
}

#[test]
fn channels_are_opened_used_and_closed() {
    let (mut host, mut guest) = connected();
    let first = host.open(b"agent");
    host.send(first, b"hello");
    let numbers = host.attach(first, &[End::Null, End::Read, End::Write]);
    assert_eq!(numbers, [0, 3, 5]);
    let events = carry(&mut host, &mut guest, 3);
    let ends = vec![(0, End::Null), (3, End::Read), (5, End::Write)];
    assert_eq!(
        events,
        [
            Event::Opened {
                channel: 1,
                target: b"agent".to_vec()
            },
            Event::Data {
                channel: 1,
                bytes: b"hello".to_vec()
            },
            Event::Attached { channel: 1, ends },
        ]
    );
    // What is read there is written here, and the other way round.
    assert!(host.room(3) > 0 && host.room(5) == 0);
    assert!(guest.room(3) == 0 && guest.room(5) > 0);
    guest.send(5, b"output");
    guest.fin(5);
    let events = carry(&mut guest, &mut host, 100);
    assert_eq!(events[1], Event::Fin(5));
    host.stop(1);
    assert_eq!(carry(&mut host, &mut guest, 100), [Event::Stop(1)]);
    assert_eq!(guest.room(1), 0);
}

#[test]
fn a_flood_fills_its_own_window_only() {
    let (mut host, mut guest) = connected();
    let (flood, other) = (host.open(b"a"), host.open(b"b"));
    carry(&mut host, &mut guest, 100);
    let mut sent = 0;
    loop {
        let room = guest.room(flood);
        if room == 0 && guest.pending().is_empty() {
            break;
        }
        guest.send(flood, &vec![0; room]);
        sent += room;
        carry(&mut guest, &mut host, 10_000);
    }
    assert_eq!(sent, WINDOW);
    assert_eq!(guest.room(other), DATA);
    // Once it is passed on, it goes on.
    host.passed_on(flood, WINDOW);
    carry(&mut host, &mut guest, 100);
    assert_eq!(guest.room(flood), DATA);
}

/// A host that died in the middle of a frame left the guest waiting for the rest of it, and the
/// next host's first bytes would have been taken for that rest.
#[test]
fn a_later_host_is_not_taken_for_the_rest_of_an_earlier_one() {
    for cut in [1, 5, 9, 2000, 4107] {
        let (mut first, mut guest) = connected();
        let channel = first.open(b"a");
        carry(&mut first, &mut guest, 100);
        first.send(channel, &vec![b'x'; DATA]);
        let mut events = Vec::new();
        let half: Vec<u8> = first.pending().iter().copied().take(cut).collect();
        guest.receive(&half, &mut events).unwrap();
        assert_eq!(events, []);
        // And half a frame of the guest's own is still on its way to the host.
        guest.send(channel, b"stale");
        let stale: Vec<u8> = guest.pending()[3..].to_vec();
        guest.wrote(guest.pending().len());
        let mut second = Mux::new(Side::Host);
        second.greet(greeting(8));
        let met = carry(&mut second, &mut guest, 333);
        assert_eq!(met, [Event::Greeted(greeting(8))], "cut at {cut}");
        let mut events = Vec::new();
        second.receive(&stale, &mut events).unwrap();
        assert_eq!(events, []);
        let met = carry(&mut guest, &mut second, 333);
        assert_eq!(met, [Event::Greeted(greeting(8))]);
        let channel = second.open(b"b");
        assert_eq!(channel, 1);
        let opened = carry(&mut second, &mut guest, 333);
        assert!(matches!(opened[0], Event::Opened { channel: 1, .. }));
    }
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let frame = |kind, channel, payload: &[u8]| {
        let mut out = Vec::new();
        wire::frame(&mut out, 7, kind, channel, payload);
        out
    };
    let refused = |bytes: Vec<u8>| {
        let (mut host, mut guest) = connected();
        host.open(b"a");
        carry(&mut host, &mut guest, 100);
        host.receive(&bytes, &mut Vec::new()).is_err()
    };
    assert!(!refused(frame(wire::Kind::Data, 1, b"fine")));
    assert!(refused(frame(wire::Kind::Data, 3, b"never opened")));
    assert!(refused(frame(wire::Kind::Open, 2, b"agent")));
    assert!(refused(frame(wire::Kind::Resize, 1, &[0; 4])));
    assert!(refused(frame(wire::Kind::Credit, 1, &[1, 0, 0, 0])));
    assert!(refused(frame(wire::Kind::Credit, 1, &[1])));
    assert!(refused(frame(wire::Kind::Attach, 1, &[4, 0, 0, 0, 1])));
    assert!(refused(frame(wire::Kind::Attach, 1, &[2, 0, 0, 0, 9])));
    assert!(refused(frame(wire::Kind::Attach, 1, &[2, 0, 0, 0])));
    assert!(refused(vec![200; 20]));
    let flood = frame(wire::Kind::Data, 1, &[0; wire::MAX]).repeat(WINDOW / wire::MAX + 1);
    assert!(refused(flood));
    let mut other_tag = Vec::new();
    wire::frame(&mut other_tag, 8, wire::Kind::Data, 1, b"x");
    assert!(refused(other_tag));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open,
    Send(bool, usize, usize),
    Fin(bool, usize),
    Stop(bool, usize),
    Carry(bool, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Open),
        6 => (any::<bool>(), 0..6_usize, 1..5000_usize).prop_map(|(a, b, c)| Step::Send(a, b, c)),
        1 => (any::<bool>(), 0..6_usize).prop_map(|(a, b)| Step::Fin(a, b)),
        1 => (any::<bool>(), 0..6_usize).prop_map(|(a, b)| Step::Stop(a, b)),
        4 => (any::<bool>(), 1..9000_usize).prop_map(|(a, b)| Step::Carry(a, b)),
    ]
}

proptest! {
    /// Whatever the two sides do: no rule is broken, nothing is lost, added or out of order, and
    /// no more than a window is ever on its way.
    #[test]
    fn both_sides_agree(steps in prop::collection::vec(step(), 1..120)) {
        let (mut host, mut guest) = connected();
        let mut open: Vec<u32> = Vec::new();
        // By receiver and channel: sent, and received.
        let mut sent: BTreeMap<(bool, u32), (Vec<u8>, bool)> = BTreeMap::new();
        let mut got: BTreeMap<(bool, u32), Vec<u8>> = BTreeMap::new();
        let mut next = 0_u8;
        let mut note = |events: Vec<Event>, to_guest: bool, mux: &mut Mux| {
            for event in events {
                if let Event::Data { channel, bytes } = event {
                    mux.passed_on(channel, bytes.len());
                    got.entry((to_guest, channel)).or_default().extend(bytes);
                }
            }
        };
        let finish = [Step::Carry(true, 100_000), Step::Carry(false, 100_000)].repeat(4);
        for step in steps.into_iter().chain(finish) {
            match step {
                Step::Open => open.push(host.open(b"t")),
                Step::Send(by_host, which, size) => {
                    let Some(channel) = open.get(which).copied() else { continue };
                    let mux = if by_host { &mut host } else { &mut guest };
                    let size = size.min(mux.room(channel));
                    next = next.wrapping_add(1);
                    mux.send(channel, &vec![next; size]);
                    let entry = sent.entry((by_host, channel)).or_default();
                    entry.0.extend(vec![next; size]);
                }
                Step::Fin(by_host, which) => {
                    let Some(channel) = open.get(which).copied() else { continue };
                    if by_host { &mut host } else { &mut guest }.fin(channel);
                }
                Step::Stop(by_host, which) => {
                    let Some(channel) = open.get(which).copied() else { continue };
                    if by_host { &mut host } else { &mut guest }.stop(channel);
                    // What was on its way may be lost now.
                    sent.entry((!by_host, channel)).or_default().1 = true;
                }
                Step::Carry(true, size) => {
                    let events = carry(&mut host, &mut guest, size);
                    note(events, true, &mut guest);
                }
                Step::Carry(false, size) => {
                    let events = carry(&mut guest, &mut host, size);
                    note(events, false, &mut host);
                }
            }
        }
        for (key, (bytes, stopped)) in sent {
            let received = got.remove(&key).unwrap_or_default();
            if stopped {
                prop_assert!(bytes.starts_with(&received));
            } else {
                prop_assert_eq!(received, bytes);
            }
        }
    }

    /// The host's side of the line against anything: an error, never a panic, and no more memory
    /// than windows.
    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..4000), size in 1..500_usize) {
        garbage(&bytes, size);
    }

    /// The same with frames that look right.
    #[test]
    fn odd_frames_are_refused(
        frames in prop::collection::vec(
            (0..9_u8, 0..12_u32, prop::collection::vec(0..4_u8, 0..24)), 1..40),
        size in 1..500_usize,
    ) {
        let mut bytes = Vec::new();
        for (kind, channel, payload) in frames {
            bytes.extend_from_slice(&[kind, 0]);
            bytes.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(&channel.to_le_bytes());
            bytes.extend_from_slice(&payload);
            bytes.extend_from_slice(&7_u32.to_le_bytes());
        }
        garbage(&bytes, size);
    }

    #[test]
    fn frames_are_found_however_they_arrive(
        lengths in prop::collection::vec((0..300_usize, 0..5_u8), 1..12),
        size in 1..64_usize,
    ) {
        let mut stream = Vec::new();
        let mut wanted = Vec::new();
        for (length, fds) in lengths {
            if fds > 0 {
                wanted.push((stream.len(), fds));
            }
            stream.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            stream.push(fds);
            stream.extend(std::iter::repeat_n(b'p', length));
        }
        let mut cutter = Cutter::default();
        let (mut out, mut found) = (Vec::new(), Vec::new());
        for chunk in stream.chunks(size) {
            for part in cutter.cut(chunk).unwrap() {
                match part {
                    Part::Bytes(bytes) => out.extend(bytes),
                    Part::Descriptors(count) => found.push((out.len(), count)),
                }
            }
        }
        prop_assert_eq!(out, stream);
        prop_assert_eq!(found, wanted);
    }
}

fn garbage(bytes: &[u8], size: usize) {
    let (mut host, mut guest) = connected();
    host.open(b"a");
    carry(&mut host, &mut guest, 100);
    let mut events = Vec::new();
    for chunk in bytes.chunks(size) {
        if host.receive(chunk, &mut events).is_err() {
            break;
        }
    }
    let data: usize = events
        .iter()
        .map(|event| match event {
            Event::Data { bytes, .. } => bytes.len(),
            _ => 0,
        })
        .sum();
    assert!(data <= bytes.len());
    assert!(host.pending().len() <= bytes.len() * 4);
}

/// A guest that serves a made-up agent: each conversation is answered by a closure's thread.
struct Answers(fn(UnixStream));

impl Hooks for Answers {
    fn greeted(&mut self, _: &Greeting) {}

    fn opened(&mut self, target: &[u8]) -> std::io::Result<(std::os::fd::OwnedFd, bool)> {
        let (ours, theirs) = pair()?;
        let answer = self.0;
        std::thread::spawn(move || answer(theirs.into()));
        Ok((ours, target == b"framed"))
    }
}

struct Nothing;

impl Hooks for Nothing {
    fn greeted(&mut self, _: &Greeting) {}

    fn opened(&mut self, _: &[u8]) -> std::io::Result<(std::os::fd::OwnedFd, bool)> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Runs both sides in threads until the host's `use_it` is done.
fn with_line(answer: fn(UnixStream), open: &[&[u8]], use_it: impl FnOnce(Vec<UnixStream>)) {
    let (host_line, guest_line) = pair().unwrap();
    rustix::io::ioctl_fionbio(&guest_line, true).unwrap();
    let (never, _keep) = pair().unwrap();
    let guest = std::thread::spawn(move || {
        let mut pump = Pump::new(Side::Guest, guest_line);
        let mut hooks = Answers(answer);
        loop {
            // The host's end is closed in the end, which a port would not be told so.
            match pump.turn(never.as_fd(), &mut hooks) {
                Ok(_) if pump.is_alone() => break,
                Ok(_) => {}
                Err(over) => panic!("{over}"),
            }
        }
    });
    let mut pump = Pump::new(Side::Host, host_line);
    pump.greet(greeting(5));
    let mut ends = Vec::new();
    let (stop, mut stopper) = UnixStream::pair().unwrap();
    let host = {
        let mut locals = Vec::new();
        for target in open {
            let (ours, theirs) = pair().unwrap();
            locals.push((target.to_vec(), ours));
            ends.push(UnixStream::from(theirs));
        }
        std::thread::spawn(move || {
            for (target, ours) in locals {
                let framed = target == b"framed";
                pump.open(&target, ours, framed);
            }
            while !matches!(pump.turn(stop.as_fd(), &mut Nothing), Ok(true) | Err(_)) {}
        })
    };
    use_it(ends);
    stopper.write_all(b"x").unwrap();
    host.join().unwrap();
    guest.join().unwrap();
}

#[test]
fn streams_reach_each_other() {
    let echo = |mut stream: UnixStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    };
    with_line(echo, &[b"plain", b"plain"], |ends| {
        let big: Vec<u8> = (0..500_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let threads: Vec<_> = ends
            .into_iter()
            .map(|mut end| {
                let big = big.clone();
                std::thread::spawn(move || {
                    end.write_all(&big).unwrap();
                    end.shutdown(std::net::Shutdown::Write).unwrap();
                    let mut back = Vec::new();
                    end.read_to_end(&mut back).unwrap();
                    assert!(back == big);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn descriptors_go_with_their_message() {
    // Reads a message with two descriptors, copies the first to the second in capitals, and sends
    // back a message with a socket that says so.
    let agent = |stream: UnixStream| {
        let mut fds = std::collections::VecDeque::new();
        let mut bytes = Vec::new();
        while bytes.len() < frame::HEADER + 3 {
            let mut buffer = [0; 64];
            let read = socket::receive(&stream, &mut buffer, &mut fds).unwrap();
            assert!(read > 0);
            bytes.extend_from_slice(&buffer[..read]);
        }
        assert_eq!(&bytes[frame::HEADER..], b"run");
        let mut input = std::fs::File::from(fds.pop_front().unwrap());
        let mut output = std::fs::File::from(fds.pop_front().unwrap());
        let mut text = String::new();
        input.read_to_string(&mut text).unwrap();
        output.write_all(text.to_uppercase().as_bytes()).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let message = [4, 0, 0, 0, 1, b'd', b'o', b'n', b'e'];
        socket::send(&stream, &message, &[theirs.as_fd()]).unwrap();
        drop(theirs);
        { &ours }.write_all(b"from inside").unwrap();
    };
    with_line(agent, &[b"framed"], |mut ends| {
        let stream = ends.pop().unwrap();
        let (input, mut writer) = std::io::pipe().unwrap();
        let (mut reader, output) = std::io::pipe().unwrap();
        let message = [3, 0, 0, 0, 2, b'r', b'u', b'n'];
        socket::send(&stream, &message, &[input.as_fd(), output.as_fd()]).unwrap();
        drop((input, output));
        writer.write_all(b"shout").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "SHOUT");
        let mut fds = std::collections::VecDeque::new();
        let mut bytes = Vec::new();
        while bytes.len() < frame::HEADER + 4 {
            let mut buffer = [0; 64];
            let read = socket::receive(&stream, &mut buffer, &mut fds).unwrap();
            assert!(read > 0);
            bytes.extend_from_slice(&buffer[..read]);
        }
        let mut inner = UnixStream::from(fds.pop_front().unwrap());
        let mut text = String::new();
        inner.read_to_string(&mut text).unwrap();
        assert_eq!(text, "from inside");
    });
}

#[test]
fn garbage_ends_the_hosts_line() {
    let (line, other) = pair().unwrap();
    let mut pump = Pump::new(Side::Host, line);
    pump.greet(greeting(9));
    let (wake, _keep) = pair().unwrap();
    let mut other = UnixStream::from(other);
    other.write_all(&greeting(9).encode()).unwrap();
    other.write_all(&[77; 100]).unwrap();
    let over = loop {
        if let Err(over) = pump.turn(wake.as_fd(), &mut Nothing) {
            break over;
        }
    };
    assert!(matches!(over, Over::Garbage(_)), "{over}");
    assert!(over.to_string().contains("bytes that are no frame"));
}
