//! Reads JSON the way Resource Manager does: `//` and `/* */` comments, strings over several
//! lines, single quotes and a trailing comma are accepted; a property given twice is not.

use serde_json::{Map, Number, Value};

use super::error::{TemplateError, TemplateErrorKind, TemplateResult};

/// Reads one value. `depth` bounds how deep arrays and objects may be nested.
pub(crate) fn read(text: &str, depth: usize) -> TemplateResult<Value> {
    let mut reader = Reader { text, at: 0, depth };
    reader.skip_blank()?;
    // A byte order mark is what some Windows editors put first.
    if reader.at == 0 && text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
        reader.skip_blank()?;
    }
    let value = reader.value()?;
    reader.skip_blank()?;
    if reader.at < text.len() {
        return Err(reader.fail("text follows the end of the JSON value"));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn fail(&self, message: impl Into<String>) -> TemplateError {
        self.fail_at(self.at, message)
    }

    fn fail_at(&self, at: usize, message: impl Into<String>) -> TemplateError {
        let before = &self.text[..at.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |last| last.chars().count())
            + 1;
        TemplateError::new(TemplateErrorKind::Syntax, message).located(line, column)
    }

    fn skip_blank(&mut self) -> TemplateResult<()> {
        loop {
            let start = self.at;
            let rest = self.rest();
            let blank = rest.len()
                - rest
                    .trim_start_matches([' ', '\t', '\r', '\n', '\u{a0}'])
                    .len();
            self.at += blank;
            if self.rest().starts_with("//") {
                let line = self.rest().find('\n').unwrap_or_else(|| self.rest().len());
                self.at += line;
            } else if self.rest().starts_with("/*") {
                match self.rest().find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return Err(self.fail("a comment begins here and does not end")),
                }
            }
            if self.at == start {
                return Ok(());
            }
        }
    }

    fn value(&mut self) -> TemplateResult<Value> {
        match self.peek() {
            Some('{') => self.nested(Self::object),
            Some('[') => self.nested(Self::array),
            Some('"' | '\'') => Ok(Value::String(self.string()?)),
            Some('-' | '0'..='9') => self.number(),
            Some('a'..='z') => self.word(),
            Some(other) => Err(self.fail(format!("a JSON value is expected, not '{other}'"))),
            None => Err(self.fail("the text ends where a JSON value is expected")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> TemplateResult<Value>) -> TemplateResult<Value> {
        if self.depth == 0 {
            return Err(TemplateError::limit(
                "arrays and objects are nested too deeply",
            ));
        }
        self.depth -= 1;
        self.at += 1;
        let value = read(self);
        self.depth += 1;
        value
    }

    fn object(&mut self) -> TemplateResult<Value> {
        let mut map = Map::new();
        loop {
            self.skip_blank()?;
            if self.eat('}') {
                return Ok(Value::Object(map));
            }
            let start = self.at;
            if !matches!(self.peek(), Some('"' | '\'')) {
                return Err(self.fail("a property name in quotes, or '}', is expected"));
            }
            let name = self.string()?;
            self.skip_blank()?;
            if !self.eat(':') {
                return Err(self.fail(format!("':' is expected after the property name '{name}'")));
            }
            self.skip_blank()?;
            let value = self.value()?;
            if map.contains_key(&name) {
                return Err(self.fail_at(start, format!("the property '{name}' is given twice")));
            }
            map.insert(name, value);
            self.skip_blank()?;
            if !self.eat(',') && self.peek() != Some('}') {
                return Err(self.fail("',' or '}' is expected"));
            }
        }
    }

    fn array(&mut self) -> TemplateResult<Value> {
        let mut items = Vec::new();
        loop {
            self.skip_blank()?;
            if self.eat(']') {
                return Ok(Value::Array(items));
            }
            items.push(self.value()?);
            self.skip_blank()?;
            if !self.eat(',') && self.peek() != Some(']') {
                return Err(self.fail("',' or ']' is expected"));
            }
        }
    }

    fn string(&mut self) -> TemplateResult<String> {
        let start = self.at;
        let quote = self.take();
        let mut text = String::new();
        loop {
            match self.take() {
                None => return Err(self.fail_at(start, "a string begins here and does not end")),
                end if end == quote => return Ok(text),
                Some('\\') => self.escape(&mut text)?,
                Some(plain) => text.push(plain),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> TemplateResult<()> {
        let start = self.at.saturating_sub(1);
        match self.take() {
            Some(same @ ('"' | '\'' | '\\' | '/')) => text.push(same),
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some('u') => {
                let first = self.hex()?;
                let mut units = vec![first];
                if (0xd800..0xdc00).contains(&first) && self.rest().starts_with("\\u") {
                    self.at += 2;
                    units.push(self.hex()?);
                }
                match String::from_utf16(&units) {
                    Ok(decoded) => text.push_str(&decoded),
                    Err(_) => {
                        return Err(self.fail_at(start, "half a surrogate pair is no character"));
                    }
                }
            }
            _ => return Err(self.fail_at(start, "this escape sequence is not JSON")),
        }
        Ok(())
    }

    fn hex(&mut self) -> TemplateResult<u16> {
        let digits = self
            .rest()
            .get(..4)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()) {
            Some(unit) => {
                self.at += 4;
                Ok(unit)
            }
            None => Err(self.fail("four hexadecimal digits are expected after '\\u'")),
        }
    }

    fn number(&mut self) -> TemplateResult<Value> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E')))
            .unwrap_or(rest.len());
        let digits = &rest[..end];
        match digits
            .parse::<i64>()
            .map(Number::from)
            .ok()
            .or_else(|| digits.parse::<Number>().ok())
        {
            Some(number) => {
                self.at += end;
                Ok(Value::Number(number))
            }
            None => Err(self.fail(format!("'{digits}' is not a number"))),
        }
    }

    fn word(&mut self) -> TemplateResult<Value> {
        for (word, value) in [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
        ] {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.fail("a JSON value is expected; text belongs in quotes"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn comments_and_long_strings_are_read() {
        let text = "{ // first\n \"a\": /* x */ [1, 0.5, -2, 'it', ],\n \"b\": \"two\nlines\" }";
        assert_eq!(
            read(text, 8).unwrap(),
            json!({"a": [1, 0.5, -2, "it"], "b": "two\nlines"})
        );
    }

    #[test]
    fn errors_have_line_and_column() {
        let error = read("{\n  \"a\": ?\n}", 8).unwrap_err();
        assert_eq!(error.position(), Some((2, 8)));
        let error = read("{\"a\": 1, \"a\": 2}", 8).unwrap_err();
        assert!(error.to_string().contains("'a' is given twice"), "{error}");
        assert_eq!(read("{\"a\": ", 8).unwrap_err().position(), Some((1, 7)));
        assert!(read("[1] x", 8).is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let text = "[".repeat(1_000_000);
        assert_eq!(
            read(&text, 64).unwrap_err().kind(),
            TemplateErrorKind::Limit
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9_f64..1e9).prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_what_serde_writes(value in any_json()) {
            prop_assert_eq!(&read(&value.to_string(), 64).unwrap(), &value);
            prop_assert_eq!(&read(&serde_json::to_string_pretty(&value).unwrap(), 64).unwrap(), &value);
        }

        #[test]
        fn never_panics(text in "\\PC*|[\\[\\]{}:,'\"\\\\/* 0-9a-u.-]*") {
            let _ = read(&text, 16);
        }
    }
}
