//! System call filters: Docker's default profile and profiles in its JSON form, compiled to BPF in
//! the host, once for each set of capabilities.
//!
//! A difference to Docker: programs of another architecture (32-bit ones on x86-64) are killed at
//! their first system call, because the filter would have to know their numbers too.

mod compile;
mod default;
mod numbers;
mod profile;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use aci_core::error::{Error, ErrorKind, Result};

use compile::{Architecture, Target};
use profile::Profile;

/// The most instructions that the kernel takes (BPF_MAXINSNS).
const MOST: usize = 4096;

/// Major and minor of a version such as `6.18.44-generic`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((
        parts.next()?.parse().ok()?,
        parts.next().unwrap_or("0").parse().ok()?,
    ))
}

fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    version(&name.release().to_string_lossy()).unwrap_or((5, 0))
}

fn build(profile: &Profile, granted: u64) -> Result<Vec<u8>> {
    let unsupported = || {
        Error::new(
            ErrorKind::Unsupported,
            "container.start",
            "system call filters are known for x86-64 and aarch64 only",
        )
        .hint("only privileged containers run without a filter")
    };
    let target = Target {
        architecture: Architecture::native().ok_or_else(unsupported)?,
        capabilities: granted,
        kernel: kernel(),
    };
    let program = compile::compile(profile, target);
    if program.len() > MOST {
        return Err(Error::new(
            ErrorKind::Invalid,
            "container.start",
            format!(
                "the seccompProfile becomes {} instructions; the kernel takes {MOST}",
                program.len()
            ),
        ));
    }
    Ok(compile::bytes(&program))
}

/// The default filter for a container with these capabilities.
///
/// # Errors
/// `Unsupported` on other architectures.
pub(crate) fn default_filter(granted: u64) -> Result<Vec<u8>> {
    static KNOWN: OnceLock<Mutex<HashMap<u64, Vec<u8>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filter) = known.get(&granted) {
        return Ok(filter.clone());
    }
    let filter = build(&default::profile(), granted)?;
    // A handful of sets are in use; hostile documents shall not fill the memory with others.
    if known.len() < 64 {
        known.insert(granted, filter.clone());
    }
    Ok(filter)
}

/// A filter from a profile in the OCI/Docker JSON form.
///
/// # Errors
/// `Invalid` with what is wrong with the profile; `Unsupported` on other architectures.
pub(crate) fn custom_filter(json: &str, granted: u64) -> Result<Vec<u8>> {
    build(&profile::parse(json)?, granted)
}
