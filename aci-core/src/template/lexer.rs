//! Splits an expression into tokens.

use super::error::{TemplateError, TemplateResult};

/// One token of the expression language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A name of a function, a namespace or a property.
    Name(String),
    /// A literal in single quotes, with `''` already read as one quote.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// `(`
    Open,
    /// `)`
    Close,
    /// `[`
    OpenIndex,
    /// `]`
    CloseIndex,
    /// `,`
    Comma,
    /// `.`
    Dot,
}

impl Token {
    /// What a message calls the token.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Name(name) => format!("the name '{name}'"),
            Self::Text(_) => "a string".to_owned(),
            Self::Integer(number) => format!("the number {number}"),
            Self::Open => "'('".to_owned(),
            Self::Close => "')'".to_owned(),
            Self::OpenIndex => "'['".to_owned(),
            Self::CloseIndex => "']'".to_owned(),
            Self::Comma => "','".to_owned(),
            Self::Dot => "'.'".to_owned(),
        }
    }
}

/// Reads all tokens, each with the position of its first character (from 0).
pub(crate) fn tokens(text: &str) -> TemplateResult<Vec<(usize, Token)>> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let start = at;
        at += 1;
        let token = match c {
            _ if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '[' => Token::OpenIndex,
            ']' => Token::CloseIndex,
            ',' => Token::Comma,
            '.' => Token::Dot,
            '\'' => {
                let mut literal = String::new();
                loop {
                    match chars.get(at) {
                        None => return Err(fail(start, "a string begins with ' and does not end")),
                        Some('\'') if chars.get(at + 1) == Some(&'\'') => {
                            literal.push('\'');
                            at += 2;
                        }
                        Some('\'') => {
                            at += 1;
                            break;
                        }
                        Some(&other) => {
                            literal.push(other);
                            at += 1;
                        }
                    }
                }
                Token::Text(literal)
            }
            '0'..='9' | '-' | '+' => {
                while chars.get(at).is_some_and(char::is_ascii_digit) {
                    at += 1;
                }
                if chars.get(at) == Some(&'.')
                    && chars.get(at + 1).is_some_and(char::is_ascii_digit)
                {
                    return Err(fail(
                        start,
                        "the language has no fractional numbers; write float('1.5') or json('1.5')",
                    ));
                }
                let digits: String = chars[start..at].iter().collect();
                match digits.parse() {
                    Ok(number) => Token::Integer(number),
                    Err(_) => {
                        return Err(fail(
                            start,
                            format!("'{digits}' is not a whole number of 64 bits"),
                        ));
                    }
                }
            }
            _ if starts_name(c) => {
                while chars.get(at).copied().is_some_and(continues_name) {
                    at += 1;
                }
                Token::Name(chars[start..at].iter().collect())
            }
            '"' => {
                return Err(fail(
                    start,
                    "strings inside an expression are written in single quotes",
                ));
            }
            other => {
                return Err(fail(
                    start,
                    format!("the character '{other}' has no meaning here"),
                ));
            }
        };
        tokens.push((start, token));
    }
    Ok(tokens)
}

/// Whether a name may begin with `c`.
pub(crate) fn starts_name(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

/// Whether a name may go on with `c`.
pub(crate) fn continues_name(c: char) -> bool {
    starts_name(c) || c.is_numeric()
}

fn fail(position: usize, message: impl std::fmt::Display) -> TemplateError {
    TemplateError::expression(format!(
        "unable to parse the language expression at character {}: {message}",
        position + 1
    ))
}
