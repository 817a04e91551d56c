//! The cases, by theme.

mod containers;
mod network;
mod platform;
mod resources;
mod volumes;
mod warnings;

use super::Case;
pub(super) use warnings::WARNINGS;

/// A case: how to break the group, then code, path and message.
macro_rules! case {
    ($breaks:expr, $code:literal, $path:expr, $message:expr $(,)?) => {
        $crate::validate::tests::Case {
            breaks: $breaks,
            code: $code,
            path: $path,
            message: $message,
        }
    };
}
use case;

/// Every case that makes the group invalid.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    let themes = [
        containers::CASES,
        network::CASES,
        platform::CASES,
        resources::CASES,
        volumes::CASES,
    ];
    themes.into_iter().flatten()
}
