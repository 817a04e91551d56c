//! What `exec` and `attach` hand out: an address with a password, for one use and a short time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aci_core::contract::TerminalSize;
use aci_core::id::GroupRef;
use aci_core::model::Secret;
use aci_core::time::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;

use super::error::{ArmError, ArmResult};

/// How long an address waits for its one use.
pub(crate) const LIFETIME: Duration = Duration::from_secs(120);
/// Addresses that may wait at a time.
const MOST: usize = 1_024;

/// What a session does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Runs a process on a terminal.
    Exec {
        argv: Vec<String>,
        size: TerminalSize,
    },
    /// Shows the output.
    Attach,
}

/// An address that waits for its use.
pub(crate) struct Session {
    pub(crate) group: GroupRef,
    pub(crate) container: String,
    pub(crate) work: Work,
    password: [u8; digest::SHA256_OUTPUT_LEN],
    expires: Timestamp,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("group", &self.group)
            .field("container", &self.container)
            .finish_non_exhaustive()
    }
}

fn hash(text: &str) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let mut hash = [0; digest::SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}

impl Session {
    /// Whether it is the password; in a time that does not depend on how much of it is right.
    pub(crate) fn accepts(&self, password: &str) -> bool {
        self.password.ct_eq(&hash(password)).into()
    }
}

/// What a client is told.
pub(crate) struct Ticket {
    pub(crate) id: String,
    pub(crate) password: Secret,
}

/// All addresses that wait. In memory only: after a restart clients ask for new ones.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<BTreeMap<String, Session>>);

impl Sessions {
    /// Hands out an address.
    ///
    /// # Errors
    /// 429 if too many wait; 500 without randomness.
    pub(crate) fn open(
        &self,
        group: GroupRef,
        container: &str,
        work: Work,
        now: Timestamp,
    ) -> ArmResult<Ticket> {
        let (id, password) = (random::<16>()?, random::<32>()?);
        let session = Session {
            group,
            container: container.to_owned(),
            work,
            password: hash(&password),
            expires: now + LIFETIME,
        };
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, session| now < session.expires);
        if waiting.len() >= MOST {
            return Err(ArmError::too_many_requests(
                "Too many sessions wait for their WebSocket; use them or retry later.",
                LIFETIME.as_secs(),
            ));
        }
        waiting.insert(id.clone(), session);
        Ok(Ticket {
            id,
            password: Secret::new(password),
        })
    }

    /// Takes a session: whatever comes of it, nobody gets it again.
    pub(crate) fn take(&self, id: &str, now: Timestamp) -> Option<Session> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(id).filter(|session| now < session.expires)
    }
}

fn random<const N: usize>() -> ArmResult<String> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ArmError::internal())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn open(sessions: &Sessions, now: Timestamp) -> ArmResult<Ticket> {
        sessions.open(GroupRef::from("g"), "c", Work::Attach, now)
    }

    #[test]
    fn an_address_is_good_for_one_use() {
        let sessions = Sessions::default();
        let ticket = open(&sessions, NOW).unwrap();
        assert!(sessions.take("other", NOW).is_none());
        let session = sessions.take(&ticket.id, NOW).unwrap();
        assert!(session.accepts(ticket.password.expose()));
        assert!(sessions.take(&ticket.id, NOW).is_none());
    }

    #[test]
    fn only_the_whole_password_is_accepted() {
        let sessions = Sessions::default();
        let (one, two) = (open(&sessions, NOW).unwrap(), open(&sessions, NOW).unwrap());
        let session = sessions.take(&one.id, NOW).unwrap();
        let password = one.password.expose();
        for wrong in [
            "",
            two.password.expose(),
            &password[1..],
            &format!("{password} "),
        ] {
            assert!(!session.accepts(wrong));
        }
    }

    #[test]
    fn an_address_expires_and_makes_room() {
        let sessions = Sessions::default();
        let first = open(&sessions, NOW).unwrap();
        for _ in 1..MOST {
            open(&sessions, NOW).unwrap();
        }
        assert_eq!(open(&sessions, NOW).err().unwrap().status(), 429);
        let later = NOW + LIFETIME;
        assert!(sessions.take(&first.id, later).is_none());
        open(&sessions, later).unwrap();
        assert_eq!(sessions.0.lock().unwrap().len(), 1);
    }
}
