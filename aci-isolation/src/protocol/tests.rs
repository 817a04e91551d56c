//! The codec: what goes in comes out, however it is cut, and nothing that comes in panics.

use proptest::prelude::*;

use super::frame::{Decoder, HEADER, MAX, Malformed, encode};
use super::{Exit, Failure, Hidden, Kind, Program, Reply, Request, Rights, Start, Status, Upper};

fn hidden() -> impl Strategy<Value = Hidden> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Hidden)
}

fn program() -> impl Strategy<Value = Program> {
    (
        prop::collection::vec(hidden(), 0..4),
        prop::collection::vec(hidden(), 0..4),
        ".*",
        prop::option::of(".*"),
        any::<Option<u32>>(),
        any::<Option<(u16, u16)>>(),
    )
        .prop_map(|(argv, env, cwd, user, uid, terminal)| Program {
            argv,
            env,
            cwd,
            user,
            uid,
            gid: uid.map(|uid| uid ^ 1),
            terminal,
        })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Hello),
        Just(Request::Stats),
        Just(Request::Destroy),
        (".*", prop::collection::vec((".*", hidden()), 0..3))
            .prop_map(|(volume, files)| Request::Files { volume, files }),
        any::<Option<u64>>().prop_map(|seen| Request::Status { seen }),
        (".*", program()).prop_map(|(container, program)| Request::Exec { container, program }),
        (".*", any::<u8>(), any::<bool>()).prop_map(|(container, signal, all)| Request::Signal {
            container,
            signal,
            all
        }),
        (any::<std::net::IpAddr>(), any::<u16>(), any::<u32>())
            .prop_map(|(ip, port, scope)| Request::Dial { ip, port, scope }),
        (
            ".*",
            program(),
            prop::collection::vec((".*", hidden(), any::<u32>()), 0..3),
            hidden()
        )
            .prop_map(|(name, program, files, filter)| {
                Request::Start(Box::new(Start {
                    name,
                    attempt: 3,
                    layers: Vec::new(),
                    upper: Upper::Directory("/u".into(), "/w".into()),
                    program,
                    mounts: vec![("v".into(), "/p".into(), true)],
                    files,
                    bounds: super::Bounds::default(),
                    rights: Rights {
                        filter: filter.0.clone(),
                        ..Rights::default()
                    },
                    log_bytes: u64::MAX,
                    devices: vec![super::Device {
                        path: "/dev/x".into(),
                        rule: crate::devices::DEFAULT[2],
                        mode: 0o660,
                        uid: 1,
                        gid: 2,
                    }],
                    binds: vec![("/usr/lib/x".into(), "/lib/x".into(), true)],
                    rlimits: vec![(7, 1, u64::MAX)],
                }))
            }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let exit = (
        any::<i32>(),
        any::<Option<u8>>(),
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|(code, signal, oom, at)| Exit {
            code,
            signal,
            oom,
            at,
        });
    let status = (
        ".*",
        any::<u32>(),
        any::<u64>(),
        prop::option::of(exit.clone()),
    )
        .prop_map(|(name, attempt, since, exit)| Status {
            name,
            attempt,
            since,
            exit,
        });
    prop_oneof![
        Just(Reply::Done),
        Just(Reply::Dialed),
        exit.prop_map(Reply::Exited),
        (any::<u32>(), ".*").prop_map(|(version, id)| Reply::Hello { version, id }),
        (".*", any::<Option<i32>>()).prop_map(|(message, exit_code)| Reply::Failed(Failure {
            kind: Kind::Invalid,
            hint: Some(message.clone()),
            message,
            exit_code,
        })),
        (any::<u64>(), prop::collection::vec(status, 0..5)).prop_map(|(generation, containers)| {
            Reply::Status {
                generation,
                containers,
            }
        }),
    ]
}

proptest! {
    #[test]
    fn requests_come_back(requests in prop::collection::vec((request(), 0_u8..5), 1..5), cut in 1_usize..500) {
        let stream: Vec<u8> = requests
            .iter()
            .flat_map(|(request, fds)| encode(request, *fds).unwrap())
            .collect();
        let (mut decoder, mut back) = (Decoder::default(), Vec::new());
        for part in stream.chunks(cut) {
            decoder.push(part);
            while let Some(request) = decoder.next::<Request>().unwrap() {
                back.push(request);
            }
        }
        prop_assert_eq!(back, requests);
    }

    #[test]
    fn replies_come_back(reply in reply()) {
        let mut decoder = Decoder::default();
        decoder.push(&encode(&reply, 1).unwrap());
        prop_assert_eq!(decoder.next::<Reply>().unwrap(), Some((reply, 1)));
        prop_assert_eq!(decoder.next::<Reply>().unwrap(), None);
    }

    #[test]
    fn garbage_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        for _ in 0..100 {
            match decoder.next::<Request>() {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }

    /// A frame of the right form with any payload.
    #[test]
    fn any_payload_is_a_message_or_malformed(payload in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        bytes.push(0);
        bytes.extend_from_slice(&payload);
        for _ in 0..2 {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            match decoder.next::<Reply>() {
                Ok(Some((reply, 0))) => {
                    // Every message has one form only, up to the length of its numbers.
                    let again = encode(&reply, 0).unwrap();
                    prop_assert!(again.len() <= bytes.len());
                }
                Ok(other) => prop_assert!(false, "{:?}", other),
                Err(malformed) => prop_assert_eq!(malformed, Malformed::Payload),
            }
        }
    }
}

#[test]
fn lengths_and_descriptors_are_bounded() {
    let mut decoder = Decoder::default();
    decoder.push(&u32::try_from(MAX + 1).unwrap().to_le_bytes());
    decoder.push(&[0]);
    assert_eq!(decoder.next::<Request>(), Err(Malformed::TooLong));
    let mut decoder = Decoder::default();
    decoder.push(&[0, 0, 0, 0, 5]);
    assert_eq!(
        decoder.next::<Request>(),
        Err(Malformed::TooManyDescriptors)
    );
    assert_eq!(
        encode(&Request::Hello, 5),
        Err(Malformed::TooManyDescriptors)
    );
    assert_eq!(encode(&Request::Hello, 0).unwrap().len(), HEADER + 1);
}

#[test]
fn hidden_bytes_do_not_show() {
    let program = Program {
        env: vec![Hidden(b"KEY=hunter2".to_vec())],
        argv: vec![Hidden(b"hunter2".to_vec())],
        ..Program::default()
    };
    let text = format!("{program:?}");
    assert!(
        !text.contains("hunter2") && !text.contains("104, 117"),
        "{text}"
    );
}
