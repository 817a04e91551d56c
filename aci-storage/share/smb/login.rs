//! From a host and a key to a connection that is encrypted and stands on a share.

use std::time::Duration;

use smb2::auth::{NtlmAuthenticator, NtlmCredentials};
use smb2::crypto::encryption::Cipher;
use smb2::crypto::kdf::{PreauthHasher, derive_session_keys};
use smb2::crypto::signing::{SigningAlgorithm, verify_signature};
use smb2::msg::header::Header;
use smb2::msg::negotiate::{NegotiateContext, NegotiateRequest, NegotiateResponse};
use smb2::msg::session_setup::{
    SessionSetupRequest, SessionSetupRequestFlags, SessionSetupResponse,
};
use smb2::msg::tree_connect::{
    ShareType, TreeConnectRequest, TreeConnectRequestFlags, TreeConnectResponse,
};
use smb2::pack::{Guid, Pack, ReadCursor, Unpack, WriteCursor};
use smb2::types::flags::{Capabilities, SecurityMode};
use smb2::types::{Command, Dialect, MessageId, SessionId};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::link::{Ask, Limits, Link, Login, receive};
use super::seal::Seal;
use super::{Fault, lease, status};
use crate::wire::{Cause, Failure};

/// Who logs in where.
pub(crate) struct Target<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) share: &'a str,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    /// The same for all connections of a mount: the server knows by it whose open files are asked
    /// back.
    pub(crate) client: Guid,
    /// The session before this one, which the server may end at once; 0 for none.
    pub(crate) previous: u64,
    /// How long the whole may take.
    pub(crate) patience: Duration,
    /// How long the connection may owe an answer later.
    pub(crate) silence: Duration,
    /// Where leases go that the server takes back.
    pub(crate) breaks: mpsc::UnboundedSender<lease::Break>,
}

const SHA_512: u16 = 1;
const AES_128_GCM: u16 = 2;
const AES_256_GCM: u16 = 4;
const SIGN_CMAC: u16 = 1;
const SIGN_GMAC: u16 = 2;

fn insecure(message: impl Into<String>) -> Fault {
    Fault::Down(Failure {
        cause: Cause::Insecure,
        message: message.into(),
    })
}

fn unreachable(message: impl Into<String>) -> Fault {
    Fault::Down(Failure {
        cause: Cause::Unreachable,
        message: message.into(),
    })
}

/// Connects, logs in and enters the share.
pub(crate) async fn login(target: &Target<'_>) -> Result<Link, Fault> {
    let place = format!("{}:{}", target.host, target.port);
    match tokio::time::timeout(target.patience, enter(target, &place)).await {
        Ok(done) => done,
        Err(_) => Err(unreachable(format!(
            "'{place}' did not answer within {} s",
            target.patience.as_secs_f32()
        ))),
    }
}

async fn enter(target: &Target<'_>, place: &str) -> Result<Link, Fault> {
    let stream = TcpStream::connect((target.host, target.port))
        .await
        .map_err(|e| unreachable(format!("cannot connect to '{place}': {e}")))?;
    stream
        .set_nodelay(true)
        .map_err(|e| Fault::protocol(e.to_string()))?;
    let mut talk = Talk {
        stream,
        hash: PreauthHasher::new(),
        next: 0,
        session: 0,
        credits: 0,
    };
    let agreed = talk.negotiate(target.client).await?;
    let seal = talk.authenticate(target, &agreed).await?;
    let (from, to) = talk.stream.into_split();
    let link = Link::new(Login {
        from,
        to,
        seal,
        session: talk.session,
        next: talk.next,
        credits: talk.credits,
        limits: agreed.limits,
        silence: target.silence,
        breaks: target.breaks.clone(),
    });
    tree(target, &link).await?;
    Ok(link)
}

async fn tree(target: &Target<'_>, link: &Link) -> Result<(), Fault> {
    let request = TreeConnectRequest {
        flags: TreeConnectRequestFlags(0),
        path: format!(r"\\{}\{}", target.host, target.share),
    };
    let reply = link.ask(Ask::new(Command::TreeConnect, &request)).await?;
    let tree = reply
        .header
        .tree_id
        .ok_or_else(|| Fault::protocol("a share without a number"))?;
    let answer = TreeConnectResponse::unpack(&mut ReadCursor::new(&reply.body))?;
    if answer.share_type != ShareType::Disk {
        return Err(Fault::Down(Failure {
            cause: Cause::NoShare,
            message: format!("'{}' is not a share of files", target.share),
        }));
    }
    link.set_tree(tree);
    Ok(())
}

struct Agreed {
    limits: Limits,
    cipher: Cipher,
    signing: SigningAlgorithm,
}

/// The conversation before there are keys: one message at a time, in clear.
struct Talk {
    stream: TcpStream,
    hash: PreauthHasher,
    next: u64,
    session: u64,
    credits: u16,
}

impl Talk {
    /// Sends and waits; both messages go into the hash that the keys are derived from, but for the
    /// answer that ends the login (MS-SMB2 3.2.5.3.1).
    async fn ask(&mut self, command: Command, body: &dyn Pack) -> Result<(Header, Vec<u8>), Fault> {
        let mut header = Header::new_request(command);
        header.message_id = MessageId(self.next);
        header.session_id = SessionId(self.session);
        header.credits = 64;
        self.next += 1;
        let mut cursor = WriteCursor::new();
        header.pack(&mut cursor);
        body.pack(&mut cursor);
        let message = cursor.into_inner();
        self.hash.update(&message);
        let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
        self.stream
            .write_all(&[&length, message.as_slice()].concat())
            .await
            .map_err(|_| Fault::Lost)?;
        let answer = receive(&mut self.stream).await?;
        if answer.len() < Header::SIZE {
            return Err(Fault::protocol("a message shorter than its header"));
        }
        if answer[..4] == [0xFD, b'S', b'M', b'B'] {
            return Err(Fault::protocol("an encrypted message before the login"));
        }
        let header = Header::unpack(&mut ReadCursor::new(&answer[..Header::SIZE]))?;
        if header.command != command || !header.is_response() {
            return Err(Fault::protocol("an answer to something else"));
        }
        if command == Command::Negotiate || header.status.0 == status::MORE_PROCESSING_REQUIRED {
            self.hash.update(&answer);
        }
        self.credits = self
            .credits
            .saturating_add(header.credits)
            .saturating_sub(1);
        Ok((header, answer))
    }

    async fn negotiate(&mut self, client: Guid) -> Result<Agreed, Fault> {
        let mut salt = vec![0; 32];
        getrandom::fill(&mut salt).map_err(|e| Fault::protocol(e.to_string()))?;
        let request = NegotiateRequest {
            security_mode: SecurityMode::new(SecurityMode::SIGNING_REQUIRED),
            capabilities: Capabilities::new(
                Capabilities::LEASING
                    | Capabilities::LARGE_MTU
                    | Capabilities::PERSISTENT_HANDLES
                    | Capabilities::ENCRYPTION,
            ),
            client_guid: client,
            dialects: vec![Dialect::Smb3_1_1],
            negotiate_contexts: vec![
                NegotiateContext::PreauthIntegrity {
                    hash_algorithms: vec![SHA_512],
                    salt,
                },
                NegotiateContext::Encryption {
                    ciphers: vec![AES_128_GCM, AES_256_GCM],
                },
                NegotiateContext::Signing {
                    algorithms: vec![SIGN_GMAC, SIGN_CMAC],
                },
            ],
        };
        let (header, answer) = self.ask(Command::Negotiate, &request).await?;
        match header.status.0 {
            0 => {}
            status::NOT_SUPPORTED => return Err(insecure("the server speaks no SMB 3.1.1")),
            other => return Err(Fault::Status(other)),
        }
        let body = &answer[Header::SIZE..];
        // Read before the rest: a server of an older dialect has other fields.
        if body.len() < 6 || body[4..6] != 0x0311_u16.to_le_bytes() {
            return Err(insecure("the server speaks no SMB 3.1.1"));
        }
        let response = NegotiateResponse::unpack(&mut ReadCursor::new(body))?;
        let mut cipher = None;
        let mut signing = SigningAlgorithm::AesCmac;
        for context in &response.negotiate_contexts {
            match context {
                NegotiateContext::Encryption { ciphers } => cipher = ciphers.first().copied(),
                NegotiateContext::Signing { algorithms }
                    if algorithms.first() == Some(&SIGN_GMAC) =>
                {
                    signing = SigningAlgorithm::AesGmac;
                }
                _ => {}
            }
        }
        let cipher = match cipher {
            Some(AES_128_GCM) => Cipher::Aes128Gcm,
            Some(AES_256_GCM) => Cipher::Aes256Gcm,
            _ => return Err(insecure("the server offers no encryption with AES-GCM")),
        };
        let bound = |size: u32| size.clamp(65_536, 8 << 20);
        Ok(Agreed {
            limits: Limits {
                read: bound(response.max_read_size),
                write: bound(response.max_write_size),
                transact: bound(response.max_transact_size),
            },
            cipher,
            signing,
        })
    }

    async fn authenticate(&mut self, target: &Target<'_>, agreed: &Agreed) -> Result<Seal, Fault> {
        let mut ntlm = NtlmAuthenticator::new(NtlmCredentials {
            username: target.user.to_owned(),
            password: target.password.to_owned(),
            domain: String::new(),
        });
        // NTLM without SPNEGO around it, as the kernel's cifs sends it.
        let first = ntlm.negotiate();
        let (header, answer) = self
            .ask(Command::SessionSetup, &setup(first, target.previous))
            .await?;
        if header.status.0 != status::MORE_PROCESSING_REQUIRED {
            return Err(Fault::Status(header.status.0));
        }
        self.session = header.session_id.0;
        let body = SessionSetupResponse::unpack(&mut ReadCursor::new(&answer[Header::SIZE..]))?;
        let second = ntlm.authenticate(&body.security_buffer)?;
        let (header, answer) = self
            .ask(Command::SessionSetup, &setup(second, target.previous))
            .await?;
        if header.status.0 != 0 {
            return Err(Fault::Status(header.status.0));
        }
        let body = SessionSetupResponse::unpack(&mut ReadCursor::new(&answer[Header::SIZE..]))?;
        if body.session_flags.is_guest() || body.session_flags.is_null() {
            return Err(insecure(
                "the server took the account for a guest, whose connections are not protected",
            ));
        }
        let session_key = ntlm
            .session_key()
            .ok_or_else(|| Fault::protocol("a login without a key"))?;
        let bits = if agreed.cipher == Cipher::Aes256Gcm {
            256
        } else {
            128
        };
        let hash = Some(self.hash.value());
        let sign = derive_session_keys(session_key, Dialect::Smb3_1_1, hash, 128);
        let keys = derive_session_keys(session_key, Dialect::Smb3_1_1, hash, bits);
        // It is not encrypted yet, and only its signature shows that nobody changed the conversation.
        verify_signature(
            &answer,
            &sign.signing_key,
            agreed.signing,
            header.message_id.0,
            false,
        )
        .map_err(|_| insecure("the server's answer to the login has no valid signature"))?;
        Seal::new(self.session, &keys.encryption_key, &keys.decryption_key)
    }
}

fn setup(token: Vec<u8>, previous: u64) -> SessionSetupRequest {
    SessionSetupRequest {
        flags: SessionSetupRequestFlags(0),
        security_mode: SecurityMode::new(SecurityMode::SIGNING_REQUIRED),
        capabilities: Capabilities::default(),
        channel: 0,
        previous_session_id: previous,
        security_buffer: token,
    }
}
