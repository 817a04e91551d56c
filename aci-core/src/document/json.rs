//! Reads JSON into a tree with places.
//!
//! Besides JSON proper (RFC 8259), comments and line breaks inside strings are taken, because
//! deployment templates have them and Azure's own reader takes them. Everything else that is not
//! JSON is refused with its place.

use super::limits::{Budget, MAX_DEPTH};
use super::tree::{Data, Entry, Node, Place, Scalar, ScalarKind};

/// A text that cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) place: Place,
    pub(crate) message: String,
}

impl SyntaxError {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
        }
    }
}

/// Parses one JSON value that fills the whole text.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    parse_as(text, false)
}

/// Parses JSON as Azure Resource Manager reads templates: a comma after the last value, strings in
/// single quotes and names without quotes are taken too.
pub(crate) fn parse_relaxed(text: &str) -> Result<Node, SyntaxError> {
    parse_as(text, true)
}

fn parse_as(text: &str, relaxed: bool) -> Result<Node, SyntaxError> {
    let mut parser = Parser {
        rest: text,
        place: Place { line: 1, column: 1 },
        budget: Budget::default(),
        relaxed,
    };
    parser.space()?;
    if parser.rest.is_empty() {
        return Err(SyntaxError::new(parser.place, "The document is empty."));
    }
    let node = parser.value(0)?;
    parser.space()?;
    match parser.peek() {
        None => Ok(node),
        Some(c) => Err(parser.error(format!("Expected the end of the document, found {c:?}."))),
    }
}

struct Parser<'a> {
    rest: &'a str,
    place: Place,
    budget: Budget,
    relaxed: bool,
}

impl<'a> Parser<'a> {
    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.place, message)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.place.line = self.place.line.saturating_add(1);
            self.place.column = 1;
        } else {
            self.place.column = self.place.column.saturating_add(1);
        }
        Some(c)
    }

    /// Takes an ASCII word if it stands here.
    fn take(&mut self, word: &str) -> bool {
        if !self.rest.starts_with(word) {
            return false;
        }
        for _ in 0..word.len() {
            self.bump();
        }
        true
    }

    /// White space and comments.
    fn space(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\r' | '\n') => {
                    self.bump();
                }
                Some('/') if self.rest.starts_with("//") => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.bump();
                    }
                }
                Some('/') if self.rest.starts_with("/*") => {
                    let start = self.place;
                    self.take("/*");
                    while !self.take("*/") {
                        if self.bump().is_none() {
                            return Err(SyntaxError::new(
                                start,
                                "This comment is not closed: '*/' is missing.",
                            ));
                        }
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let place = self.place;
        if depth > MAX_DEPTH {
            return Err(self.error(format!(
                "The document is nested more than {MAX_DEPTH} levels deep."
            )));
        }
        self.budget.spend(0, place)?;
        let data = match self.peek() {
            Some('{') => self.object(depth)?,
            Some('[') => self.list(depth)?,
            Some(quote) if self.quotes(quote) => Data::Scalar(Scalar {
                kind: ScalarKind::Text,
                text: self.string()?,
            }),
            Some(_) => Data::Scalar(self.word()?),
            None => return Err(self.error("Expected a value, found the end of the document.")),
        };
        Ok(Node {
            data,
            place: Some(place),
        })
    }

    /// Whether a string may begin with `c`.
    fn quotes(&self, c: char) -> bool {
        c == '"' || (self.relaxed && c == '\'')
    }

    fn object(&mut self, depth: usize) -> Result<Data, SyntaxError> {
        let start = self.place;
        self.bump();
        let mut entries: Vec<Entry> = Vec::new();
        let mut keys = std::collections::HashMap::new();
        self.space()?;
        if self.take("}") {
            return Ok(Data::Map(entries));
        }
        loop {
            self.space()?;
            let place = self.place;
            match self.peek() {
                Some(quote) if self.quotes(quote) => {}
                Some('}') if self.relaxed => {
                    self.bump();
                    return Ok(Data::Map(entries));
                }
                Some('}') => {
                    return Err(
                        self.error("Expected a property after the comma; remove the last comma.")
                    );
                }
                Some(c) if self.relaxed && is_bare(c) => {}
                Some(c) => {
                    return Err(self.error(format!(
                        "Expected a property name in double quotes, found {c:?}."
                    )));
                }
                None => {
                    return Err(SyntaxError::new(
                        start,
                        "This object is not closed: '}' is missing.",
                    ));
                }
            }
            let key = match self.peek() {
                Some(c) if is_bare(c) => self.bare()?,
                _ => self.string()?,
            };
            if let Some(first) = keys.insert(key.clone(), place) {
                return Err(duplicate(&key, place, first));
            }
            self.space()?;
            if !self.take(":") {
                return Err(self.error("Expected ':' after the property name."));
            }
            self.space()?;
            let node = self.value(depth + 1)?;
            entries.push(Entry {
                key,
                place: Some(place),
                node,
            });
            self.space()?;
            if self.take("}") {
                return Ok(Data::Map(entries));
            }
            if !self.take(",") {
                return Err(self.unfinished(start, '}', "object"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Data, SyntaxError> {
        let start = self.place;
        self.bump();
        let mut items = Vec::new();
        self.space()?;
        if self.take("]") {
            return Ok(Data::List(items));
        }
        loop {
            self.space()?;
            if self.relaxed && self.take("]") {
                return Ok(Data::List(items));
            }
            if self.peek() == Some(']') {
                return Err(self.error("Expected a value after the comma; remove the last comma."));
            }
            items.push(self.value(depth + 1)?);
            self.space()?;
            if self.take("]") {
                return Ok(Data::List(items));
            }
            if !self.take(",") {
                return Err(self.unfinished(start, ']', "list"));
            }
        }
    }

    fn unfinished(&self, start: Place, close: char, what: &str) -> SyntaxError {
        match self.peek() {
            Some(c) => self.error(format!("Expected ',' or '{close}', found {c:?}.")),
            None => SyntaxError::new(
                start,
                format!("This {what} is not closed: '{close}' is missing."),
            ),
        }
    }

    /// A name without quotes: the Azure CLI writes `template:` so.
    fn bare(&mut self) -> Result<String, SyntaxError> {
        let place = self.place;
        let mut text = String::new();
        while let Some(c) = self.peek().filter(|c| is_bare(*c) || c.is_ascii_digit()) {
            self.bump();
            text.push(c);
        }
        self.budget.spend(text.len(), place)?;
        Ok(text)
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.place;
        let quote = self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                end if end.is_some() && end == quote => {
                    self.budget.spend(text.len(), start)?;
                    return Ok(text);
                }
                Some('\\') => text.push(self.escape()?),
                Some(c) => text.push(c),
                None => {
                    return Err(SyntaxError::new(
                        start,
                        "This string is not closed: '\"' is missing.",
                    ));
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let place = self.place;
        Ok(match self.bump() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('\'') if self.relaxed => '\'',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let high = self.hex4(place)?;
                let code = if (0xd800..0xdc00).contains(&high) && self.take("\\u") {
                    let low = self.hex4(place)?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(SyntaxError::new(
                            place,
                            "This escape is half of a surrogate pair.",
                        ));
                    }
                    0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    high
                };
                char::from_u32(code).ok_or_else(|| {
                    SyntaxError::new(place, "This escape is half of a surrogate pair.")
                })?
            }
            _ => {
                return Err(SyntaxError::new(
                    place,
                    "Unknown escape in a string; write a backslash as '\\\\'.",
                ));
            }
        })
    }

    fn hex4(&mut self, place: Place) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.bump().and_then(|c| c.to_digit(16));
            code = code * 16
                + digit.ok_or_else(|| {
                    SyntaxError::new(place, "Expected four hexadecimal digits after '\\u'.")
                })?;
        }
        Ok(code)
    }

    /// `null`, `true`, `false` or a number.
    fn word(&mut self) -> Result<Scalar, SyntaxError> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_')))
            .unwrap_or(self.rest.len());
        let word: &'a str = &self.rest[..end];
        let kind = match word {
            "null" => ScalarKind::Null,
            "true" => ScalarKind::Bool(true),
            "false" => ScalarKind::Bool(false),
            _ if is_number(word) => ScalarKind::Number,
            "" => {
                let c = self.peek().unwrap_or_default();
                return Err(self.error(format!("Expected a value, found {c:?}.")));
            }
            _ => {
                // The word itself stays out: it may be a password that is not in quotes.
                return Err(self.error("Expected a value; put texts in double quotes."));
            }
        };
        self.budget.spend(word.len(), self.place)?;
        for _ in 0..word.len() {
            self.bump();
        }
        Ok(Scalar {
            kind,
            text: word.to_owned(),
        })
    }
}

/// What a name without quotes may begin with.
const fn is_bare(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '$')
}

/// The error for a key that stands twice in one mapping.
pub(crate) fn duplicate(key: &str, place: Place, first: Place) -> SyntaxError {
    SyntaxError::new(
        place,
        format!(
            "Key '{}' stands here and at {first}; remove one of them.",
            shown_key(key)
        ),
    )
}

/// A key as messages show it.
fn shown_key(key: &str) -> String {
    key.chars().take(60).collect()
}

/// Whether a text is a number in JSON's notation.
pub(crate) fn is_number(text: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['+', '-']).unwrap_or(e))),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((w, f)) => (w, Some(f)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}
