//! One error for every operation: what failed, on what, whether anything changed, and what to do
//! next.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What kind of failure it is, for a program to decide on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The request or the document is wrong; repeating it unchanged cannot help.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// What was to be made exists already.
    AlreadyExists,
    /// The resource is in a state that forbids the operation now (ACI: `ContainerGroupTransitioning`,
    /// `ContainerGroupStopped`).
    Conflict,
    /// A quota, a capacity or an address range is used up.
    Exhausted,
    /// This implementation or this machine cannot do it.
    Unsupported,
    /// The operating system or a remote server refused for lack of rights.
    PermissionDenied,
    /// A remote part does not answer or failed for the moment.
    Unavailable,
    /// The time that was set for the operation is over.
    Timeout,
    /// Stored or received data is damaged.
    Corrupt,
    /// The sandbox, its supervisor or its machine is gone.
    Lost,
    /// The operation was given up because its owner is shutting down.
    Cancelled,
    /// Something failed that should not: input or output on the host, a broken invariant.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without any change by the caller.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Unavailable | Self::Timeout | Self::Exhausted | Self::Conflict => true,
            Self::Invalid
            | Self::NotFound
            | Self::AlreadyExists
            | Self::Unsupported
            | Self::PermissionDenied
            | Self::Corrupt
            | Self::Lost
            | Self::Cancelled
            | Self::Internal => false,
        }
    }
}

/// Whether a failed operation changed anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Applied {
    /// Nothing was changed.
    #[default]
    Nothing,
    /// A part was done and stays.
    Partly,
    /// It cannot be known (for example a lost connection).
    Unknown,
}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// ACI's error code, for example `ResourceRequestsNotSpecified`.
    pub code: String,
    /// A sentence that names the field, the value and the rule.
    pub message: String,
    /// Where in the document, as a JSON path such as `properties.containers[0].name`; empty for the
    /// whole document.
    pub path: String,
    /// Line in the source text, from 1, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// Column in the source text, from 1, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
}

impl Problem {
    /// A problem at a JSON path.
    pub fn new(
        code: impl Into<String>,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            path: path.into(),
            line: None,
            column: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}:{}: ", self.column.unwrap_or(1))?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// The error of every operation of these crates.
///
/// It is opaque so that fields can be added; ask its methods. `Display` prints one sentence with
/// the operation, the resource and the hint, and never repeats the source.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    code: Option<String>,
    operation: &'static str,
    resource: Option<String>,
    message: String,
    hint: Option<String>,
    applied: Applied,
    exit_code: Option<i32>,
    problems: Vec<Problem>,
    source: Option<Source>,
}

impl Error {
    /// An error of a kind, in an operation (`"sandbox.create"`), with a sentence.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            code: None,
            operation,
            resource: None,
            message: message.into(),
            hint: None,
            applied: Applied::Nothing,
            exit_code: None,
            problems: Vec::new(),
            source: None,
        }))
    }

    /// The error for a document with problems; the first one's code becomes the error's.
    #[must_use]
    pub fn from_problems(operation: &'static str, problems: Vec<Problem>) -> Self {
        let mut error = Self::new(
            ErrorKind::Invalid,
            operation,
            match problems.len() {
                0 => "the document is invalid".to_owned(),
                1 => problems[0].message.clone(),
                n => format!("the document has {n} problems"),
            },
        );
        error.0.code = problems.first().map(|p| p.code.clone());
        error.0.problems = problems;
        error
    }

    /// Names the resource (a group, a sandbox, an image, a path).
    #[must_use]
    pub fn on(mut self, resource: impl fmt::Display) -> Self {
        self.0.resource = Some(resource.to_string());
        self
    }

    /// Sets ACI's error code.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    /// Says what the reader can do next (a sysctl, a package, a capability).
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// States whether anything was changed.
    #[must_use]
    pub fn applied(mut self, applied: Applied) -> Self {
        self.0.applied = applied;
        self
    }

    /// Sets the exit code that a shell would give for a program that could not be started: 127 if
    /// it is not there, 126 if it may not be executed.
    #[must_use]
    pub fn exit_code(mut self, code: i32) -> Self {
        self.0.exit_code = Some(code);
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// ACI's error code, where ACI has one.
    #[must_use]
    pub fn aci_code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The operation that failed.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The resource that it failed on.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.0.resource.as_deref()
    }

    /// The sentence without operation, resource and hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next, where known.
    #[must_use]
    pub fn next_step(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Whether anything was changed.
    #[must_use]
    pub fn state_changed(&self) -> Applied {
        self.0.applied
    }

    /// The exit code to show for a program that could not be started; see [`Error::exit_code`].
    #[must_use]
    pub fn program_exit_code(&self) -> Option<i32> {
        self.0.exit_code
    }

    /// The problems of a document, if this is about one.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0.problems
    }

    /// Whether the same call may succeed later; see [`ErrorKind::is_retryable`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// This error and its causes in one line, outermost first.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(source) = cause {
            text.push_str(": ");
            text.push_str(&source.to_string());
            cause = source.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        write!(f, "{}", inner.operation)?;
        if let Some(resource) = &inner.resource {
            write!(f, " {resource}")?;
        }
        write!(f, ": {}", inner.message)?;
        if inner.problems.len() > 1 {
            for problem in &inner.problems {
                write!(f, "; {problem}")?;
            }
        }
        if let Some(hint) = &inner.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        f.debug_struct("Error")
            .field("kind", &inner.kind)
            .field("code", &inner.code)
            .field("operation", &inner.operation)
            .field("resource", &inner.resource)
            .field("message", &inner.message)
            .field("hint", &inner.hint)
            .field("applied", &inner.applied)
            .field("exit_code", &inner.exit_code)
            .field("problems", &inner.problems)
            .field("source", &inner.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| {
            let s: &(dyn std::error::Error + 'static) = s.as_ref();
            s
        })
    }
}
