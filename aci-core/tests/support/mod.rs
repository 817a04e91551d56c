//! Makes documents out of the table of properties, so that no property is left out of a test.
#![allow(dead_code)]

use aci_core::model::{PropertyInfo, ValueKind};
use serde_json::{Map, Value, json};

/// Stands for every secret value.
pub(crate) const SENTINEL: &str = "s3cr3t-5entinel";

/// Numbers that look random and follow from a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What documents are made of.
pub(crate) struct Maker<'a> {
    pub(crate) random: &'a mut Random,
    /// How likely a property that may be absent is there.
    pub(crate) percent: usize,
    /// Strings that readers stumble over, and values that are not known.
    pub(crate) odd: bool,
    /// Properties that have to be there, by their last name.
    pub(crate) always: &'a [&'a str],
}

/// Strings that some reader takes for something else.
pub(crate) const ODD: &[&str] = &[
    "",
    " ",
    "on",
    "Off",
    "yes",
    "NO",
    "y",
    "null",
    "~",
    "true",
    "0755",
    "0x1f",
    "0o17",
    "1_000",
    "12:30",
    "1:30:45",
    "2023-05-01",
    "2001-12-14t21:59:43.10-05:00",
    "1e3",
    "1.5",
    ".5",
    ".inf",
    ".nan",
    "-",
    "- a",
    "a: b",
    "a:",
    ": a",
    "a #b",
    "#",
    "a ",
    " a",
    "a\nb",
    "a\n",
    "\n",
    "a\n\n b",
    "\t",
    "a\tb",
    "'",
    "\"",
    "it's",
    "\\",
    "\\n",
    "*x",
    "&x",
    "!x",
    "!!str x",
    "%x",
    "@x",
    "`x",
    "{",
    "}",
    "[",
    "]",
    "{a: b}",
    "[a]",
    ",",
    "é",
    "😀",
    "\u{feff}x",
    "<<",
    "=",
    "?",
    "? a",
    "|",
    ">",
    "---",
    "...",
    "--- a",
    "a\r\nb",
    "\r",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{7f}",
    "\u{1}",
    "\0",
    "\u{fffe}",
    "\u{ffff}",
    "\u{fffd}",
    "[parameters('x')]",
    "key: [",
    "http://h:80/p?q=1#f",
    "a  b",
];

impl Maker<'_> {
    /// A document with the properties of a table.
    pub(crate) fn document(&mut self, table: &[PropertyInfo]) -> Value {
        self.object(table, "")
    }

    fn object(&mut self, table: &[PropertyInfo], prefix: &str) -> Value {
        let mut map = Map::new();
        for info in table {
            let Some(name) = info
                .path
                .strip_prefix(prefix)
                .filter(|name| !name.contains('.'))
            else {
                continue;
            };
            let needed = info.required
                || self.always.contains(&name)
                || (prefix.is_empty() && name == "name");
            if !needed && !self.random.chance(self.percent) {
                continue;
            }
            let count = self.random.below(3);
            let value = if info.list {
                let item = format!("{}[].", info.path);
                let count = if needed { count + 1 } else { count };
                Value::Array((0..count).map(|_| self.value(table, info, &item)).collect())
            } else if info.map {
                let entries = (0..count).map(|_| {
                    let value = if info.kind == ValueKind::Object {
                        json!({})
                    } else {
                        self.value(table, info, "")
                    };
                    (self.text(), value)
                });
                Value::Object(entries.collect())
            } else {
                let inner = format!("{}.", info.path);
                self.value(table, info, &inner)
            };
            map.insert(name.to_owned(), value);
        }
        Value::Object(map)
    }

    fn value(&mut self, table: &[PropertyInfo], info: &PropertyInfo, inner: &str) -> Value {
        if info.secret {
            return match info.kind {
                ValueKind::Any => json!({"nested": [SENTINEL]}),
                _ => Value::from(SENTINEL),
            };
        }
        match info.kind {
            ValueKind::Text => Value::from(self.text()),
            ValueKind::Choice if self.odd && self.random.chance(20) => Value::from(self.text()),
            ValueKind::Choice => Value::from(*self.random.pick(info.choices)),
            ValueKind::Integer => Value::from(self.random.below(65_536)),
            ValueKind::Number => match self.random.below(4) {
                0 => Value::from(self.random.below(100)),
                1 => Value::from(f64::from_bits(self.random.next() >> 2)),
                _ => Value::from(self.random.below(10_000) as f64 / 100.0),
            },
            ValueKind::Boolean => Value::from(self.random.chance(50)),
            ValueKind::Any => {
                let text = self.text();
                json!({ text: [self.text(), 1, -2.5, null, true, {}, []] })
            }
            _ => self.object(table, inner),
        }
    }

    /// A string; of any kind if odd ones are wanted.
    pub(crate) fn text(&mut self) -> String {
        let length = self.random.below(12) + 1;
        if !self.odd || self.random.chance(30) {
            return (0..length)
                .map(|_| char::from(b'a' + self.random.below(26) as u8))
                .collect();
        }
        if self.random.chance(60) {
            return (*self.random.pick(ODD)).to_owned();
        }
        if self.random.chance(3) {
            return "long ".repeat(500);
        }
        if self.random.chance(20) {
            const LINES: [&str; 12] = [
                "", "a", " a", "a ", "- a", "a: b", "# a", "---", "...", "\ta", "|", "é: 'x'",
            ];
            let lines: Vec<_> = (0..length).map(|_| *self.random.pick(&LINES)).collect();
            return lines.join("\n");
        }
        let chars = (0..length).map(|_| match self.random.below(3) {
            0 => char::from(self.random.below(128) as u8),
            1 => *self
                .random
                .pick(&[':', ' ', '#', '-', '\n', '"', '\'', '\\', '\t']),
            _ => char::from_u32(self.random.below(0x11_0000) as u32).unwrap_or('x'),
        });
        chars.collect()
    }
}
