//! Groups made at random.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::model::codec::{PropertyRow, Shape};

/// Scalars that tend to break rules.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        ".{0,12}".prop_map(Value::from),
        "[a-z0-9-]{1,70}".prop_map(Value::from),
        prop_oneof![
            Just("Linux"),
            Just("Windows"),
            Just("Spot"),
            Just("Confidential"),
            Just("Public"),
            Just("Private"),
            Just("UDP"),
            Just("/a/../b"),
            Just("https://x@y/z"),
            Just("a\u{0}b"),
            Just("1.1.1.1"),
            Just("")
        ]
        .prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        (0u32..5).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
    ]
}

fn shaped(shape: &'static Shape) -> BoxedStrategy<Value> {
    match shape {
        Shape::Object(rows) => object(rows),
        Shape::List(inner) => proptest::collection::vec(shaped(inner), 0..3)
            .prop_map(Value::from)
            .boxed(),
        Shape::Map(inner) => proptest::collection::btree_map("[a-z.\\/]{0,5}", shaped(inner), 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
            .boxed(),
        Shape::Boolean => any::<bool>().prop_map(Value::from).boxed(),
        Shape::Integer => prop_oneof![0u32..5, any::<u32>()]
            .prop_map(Value::from)
            .boxed(),
        Shape::Number => prop_oneof![Just(0.25), Just(1.0), -1.0..50.0, any::<f64>()]
            .prop_map(Value::from)
            .boxed(),
        _ => scalar().boxed(),
    }
}

/// An object with each property as likely there as not.
fn object(rows: &'static [PropertyRow]) -> BoxedStrategy<Value> {
    let rows = rows.iter().filter(|row| !row.read_only);
    rows.fold(Just(Map::new()).boxed(), |object, row| {
        let present = prop_oneof![Just(None), shaped(row.shape).prop_map(Some)];
        (object, present)
            .prop_map(|(mut object, value)| {
                if let Some(value) = value {
                    object.insert(row.name.to_owned(), value);
                }
                object
            })
            .boxed()
    })
    .prop_map(Value::Object)
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn validation_never_panics_and_always_says_where(document in object(ContainerGroup::ROWS)) {
        let node = crate::document::tree::Node::from(&document);
        let reading = crate::document::inspect_node(&node);
        for group in &reading.document.groups {
            for rules in [Rules::default(), Rules::for_reply(), Rules::default().at("2018-04-01".parse().unwrap())] {
                let report = validate(group, &rules);
                for problem in report.problems.iter().chain(&report.warnings) {
                    prop_assert!(!problem.path.is_empty(), "{problem}");
                    prop_assert!(CODES.iter().any(|code| code.name == problem.code), "{problem}");
                    prop_assert!(!problem.message.chars().any(char::is_control), "{problem:?}");
                }
            }
        }
    }
}
