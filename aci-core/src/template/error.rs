//! What can be wrong with a template, told with its place.

use std::fmt;

use crate::document::tree::Place;

/// The class of a [`TemplateError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TemplateErrorKind {
    /// The text is not JSON as Resource Manager reads it, or not a template at all.
    Syntax,
    /// A parameter is missing, unknown, of the wrong type or outside its constraints.
    Parameter,
    /// An expression cannot be parsed or evaluated.
    Expression,
    /// Resource Manager knows it, this evaluator does not.
    Unsupported,
    /// The value exists only while the deployment runs (`reference`, `listKeys` ...)
    /// and no resolver supplied it.
    Runtime,
    /// Resources depend on each other in a circle, or on something that is not there.
    Dependency,
    /// The template is larger, deeper or more expensive than its [`Limits`](super::Limits).
    Limit,
}

/// Why a template could not be read or evaluated.
///
/// The text names the JSON path, the expression as the template writes it, and the function. It
/// holds no computed value, because a secure parameter may have gone into it, except names and
/// ids of resources, and values of parameters that are not secure and break a rule.
#[derive(Clone, PartialEq, Eq)]
pub struct TemplateError(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    kind: TemplateErrorKind,
    message: String,
    path: Option<String>,
    expression: Option<String>,
    function: Option<String>,
    position: Option<Place>,
}

/// The result of reading or evaluating a template.
pub type TemplateResult<T> = Result<T, TemplateError>;

impl TemplateError {
    pub(crate) fn new(kind: TemplateErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            expression: None,
            function: None,
            position: None,
        }))
    }

    pub(crate) fn expression(message: impl Into<String>) -> Self {
        Self::new(TemplateErrorKind::Expression, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(TemplateErrorKind::Unsupported, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(TemplateErrorKind::Limit, message)
    }

    pub(crate) fn runtime(message: impl Into<String>) -> Self {
        Self::new(TemplateErrorKind::Runtime, message)
    }

    /// Adds the JSON path unless a deeper place is already known.
    pub(crate) fn at(mut self, path: &str) -> Self {
        if self.0.path.is_none() {
            self.0.path = Some(path.to_owned());
        }
        self
    }

    /// Adds the expression unless an inner one is already known.
    pub(crate) fn within(mut self, expression: &str) -> Self {
        if self.0.expression.is_none() {
            self.0.expression = Some(shorten(expression));
        }
        self
    }

    /// Adds the function unless an inner one is already known.
    pub(crate) fn calling(mut self, function: &str) -> Self {
        if self.0.function.is_none() {
            self.0.function = Some(function.to_owned());
        }
        self
    }

    pub(crate) fn located(mut self, place: Place) -> Self {
        if self.0.position.is_none() {
            self.0.position = Some(place);
        }
        self
    }

    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> TemplateErrorKind {
        self.0.kind
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The JSON path inside the template, such as `resources[0].properties.osType`.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.0.path.as_deref()
    }

    /// The expression as the template writes it, shortened when it is very long.
    #[must_use]
    pub fn expression_text(&self) -> Option<&str> {
        self.0.expression.as_deref()
    }

    /// The function that failed.
    #[must_use]
    pub fn function(&self) -> Option<&str> {
        self.0.function.as_deref()
    }

    /// The place in the text, for a template that was read from one.
    #[must_use]
    pub fn position(&self) -> Option<Place> {
        self.0.position
    }

    /// Resource Manager's error code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.0.kind {
            TemplateErrorKind::Syntax
            | TemplateErrorKind::Parameter
            | TemplateErrorKind::Expression
            | TemplateErrorKind::Unsupported
            | TemplateErrorKind::Runtime
            | TemplateErrorKind::Dependency
            | TemplateErrorKind::Limit => "InvalidTemplate",
        }
    }
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl TemplateError {
    /// The message with function and expression, without path and place.
    pub(crate) fn sentence(&self) -> String {
        let inner = &self.0;
        let mut text = format!(
            "Deployment template validation failed: {}",
            inner.message.trim_end_matches('.')
        );
        if let Some(function) = &inner.function {
            text.push_str(&format!(" (function '{function}')"));
        }
        if let Some(expression) = &inner.expression {
            text.push_str(&format!(" in expression '{expression}'"));
        }
        text
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())?;
        if let Some(path) = &self.0.path {
            write!(f, " at '{path}'")?;
        }
        if let Some(place) = self.0.position {
            write!(f, " at line {}, column {}", place.line, place.column)?;
        }
        f.write_str(".")
    }
}

impl fmt::Debug for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TemplateError")
            .field("kind", &self.0.kind)
            .field("text", &self.to_string())
            .finish()
    }
}

impl std::error::Error for TemplateError {}
