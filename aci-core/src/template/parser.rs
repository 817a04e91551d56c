//! Parses an expression into a tree.

use std::fmt;

use super::error::{TemplateError, TemplateResult};
use super::lexer::{Token, tokens};

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    /// A string literal.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A function call, of the language or of a namespace of the template.
    Call {
        /// The namespace of a user function.
        namespace: Option<String>,
        /// The function as written.
        name: String,
        /// Its arguments.
        arguments: Vec<Self>,
    },
    /// Properties and elements taken from a value, left to right.
    Access {
        /// The value.
        base: Box<Self>,
        /// The steps; at least one.
        steps: Vec<Step>,
    },
}

/// One step into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// `.name`
    Property(String),
    /// `[expression]`
    Index(Expr),
}

/// Parses the text between the outer brackets.
///
/// `depth` bounds how deep calls may be nested.
pub(crate) fn parse(text: &str, depth: usize) -> TemplateResult<Expr> {
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        depth,
    };
    let expr = parser.expression()?;
    match parser.peek() {
        None => Ok(expr),
        Some(token) => Err(parser.fail(&format!(
            "the expression should end before {}",
            token.describe()
        ))),
    }
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn eat(&mut self, wanted: &Token) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, wanted: &Token) -> TemplateResult<()> {
        if self.eat(wanted) {
            return Ok(());
        }
        let found = self
            .peek()
            .map_or_else(|| "the end".to_owned(), Token::describe);
        Err(self.fail(&format!("{} is expected, not {found}", wanted.describe())))
    }

    fn fail(&self, message: &str) -> TemplateError {
        let place = match self.tokens.get(self.at) {
            Some((position, _)) => format!("at character {}", position + 1),
            None => "at its end".to_owned(),
        };
        TemplateError::expression(format!(
            "unable to parse the language expression {place}: {message}"
        ))
    }

    fn expression(&mut self) -> TemplateResult<Expr> {
        if self.depth == 0 {
            return Err(TemplateError::limit("the expression is nested too deeply"));
        }
        self.depth -= 1;
        let base = self.primary()?;
        let mut steps = Vec::new();
        loop {
            if self.eat(&Token::Dot) {
                steps.push(Step::Property(self.name("a property name")?));
            } else if self.eat(&Token::OpenIndex) {
                let index = self.expression()?;
                self.expect(&Token::CloseIndex)?;
                steps.push(Step::Index(index));
            } else {
                break;
            }
        }
        self.depth += 1;
        Ok(if steps.is_empty() {
            base
        } else {
            Expr::Access {
                base: Box::new(base),
                steps,
            }
        })
    }

    fn primary(&mut self) -> TemplateResult<Expr> {
        match self.peek() {
            Some(Token::Text(text)) => {
                self.at += 1;
                Ok(Expr::Text(text.clone()))
            }
            Some(Token::Integer(number)) => {
                self.at += 1;
                Ok(Expr::Integer(*number))
            }
            Some(Token::Name(_)) => self.call(),
            Some(token) => Err(self.fail(&format!(
                "a value or a function call is expected, not {}",
                token.describe()
            ))),
            None => Err(self.fail("a value or a function call is expected")),
        }
    }

    fn name(&mut self, what: &str) -> TemplateResult<String> {
        match self.peek() {
            Some(Token::Name(name)) => {
                self.at += 1;
                Ok(name.clone())
            }
            _ => Err(self.fail(&format!("{what} is expected"))),
        }
    }

    fn call(&mut self) -> TemplateResult<Expr> {
        let first = self.name("a function name")?;
        let (namespace, name) = if self.eat(&Token::Dot) {
            let name = self.name("a function name")?;
            (Some(first), name)
        } else {
            (None, first)
        };
        if self.peek() != Some(&Token::Open) {
            let hint = match name.to_ascii_lowercase().as_str() {
                "true" | "false" | "null" => format!("write {name}()"),
                _ => format!("'{name}' is not followed by '('; text is written in single quotes"),
            };
            return Err(self.fail(&hint));
        }
        self.at += 1;
        let mut arguments = Vec::new();
        if !self.eat(&Token::Close) {
            loop {
                arguments.push(self.expression()?);
                if self.eat(&Token::Close) {
                    break;
                }
                if self.peek() != Some(&Token::Comma) {
                    self.expect(&Token::Close)?;
                }
                self.at += 1;
            }
        }
        Ok(Expr::Call {
            namespace,
            name,
            arguments,
        })
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Call {
                namespace,
                name,
                arguments,
            } => {
                if let Some(namespace) = namespace {
                    write!(f, "{namespace}.")?;
                }
                write!(f, "{name}(")?;
                for (index, argument) in arguments.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{argument}")?;
                }
                f.write_str(")")
            }
            Self::Access { base, steps } => {
                write!(f, "{base}")?;
                steps.iter().try_for_each(|step| match step {
                    Step::Property(name) => write!(f, ".{name}"),
                    Step::Index(index) => write!(f, "[{index}]"),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_steps_and_literals() {
        let text = " contoso.name( 'it''s' , -3, concat() ) [0].a [ 'b c' ] ";
        let expr = parse(text, 16).unwrap();
        assert_eq!(
            expr.to_string(),
            "contoso.name('it''s', -3, concat())[0].a['b c']"
        );
    }

    #[test]
    fn errors_say_where_and_what() {
        for (text, part) in [
            ("concat('a'", "')' is expected, not the end"),
            ("concat('a' 'b')", "')' is expected, not a string"),
            ("'a' 'b'", "should end before a string"),
            ("true", "write true()"),
            ("concat(", "at its end"),
            ("a().", "property name"),
            ("", "function call is expected"),
            ("'abc", "does not end"),
            ("1.5", "float('1.5')"),
            ("a(\"x\")", "single quotes"),
            ("99999999999999999999", "64 bits"),
            ("a(,)", "not ','"),
            ("a('x',)", "not ')'"),
        ] {
            let error = parse(text, 16).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let text = format!("{}1{}", "a(".repeat(5000), ")".repeat(5000));
        assert!(
            parse(&text, 64)
                .unwrap_err()
                .to_string()
                .contains("too deeply")
        );
        assert!(parse(&format!("a(){}", ".b".repeat(5000)), 8).is_ok());
    }

    fn any_expr() -> impl Strategy<Value = Expr> {
        let leaf = prop_oneof![
            ".*".prop_map(Expr::Text),
            any::<i64>().prop_map(Expr::Integer)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let call = (
                prop::option::of("[a-z]{1,4}"),
                "[a-zA-Z_][a-zA-Z0-9]{0,6}",
                prop::collection::vec(inner.clone(), 0..4),
            )
                .prop_map(|(namespace, name, arguments)| Expr::Call {
                    namespace,
                    name,
                    arguments,
                });
            let step = prop_oneof![
                "[a-zA-Z]{1,5}".prop_map(Step::Property),
                inner.prop_map(Step::Index)
            ];
            (call, prop::collection::vec(step, 0..3)).prop_map(|(base, steps)| {
                if steps.is_empty() {
                    base
                } else {
                    Expr::Access {
                        base: Box::new(base),
                        steps,
                    }
                }
            })
        })
    }

    proptest! {
        #[test]
        fn printed_expressions_parse_to_themselves(expr in any_expr()) {
            prop_assert_eq!(parse(&expr.to_string(), 64).unwrap(), expr);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*|[a-c().,'\\[\\] 0-9-]*") {
            let _ = parse(&text, 32);
        }
    }
}
