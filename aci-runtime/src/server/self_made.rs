//! Certificates that a server makes for itself at its first start.
//!
//! A small authority of its own signs the server's certificate, so that clients trust one file
//! (`ca.pem`) for as long as the directory is kept, while the server's certificate is renewed.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority's certificate is good for.
const AUTHORITY: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
/// How long the server's certificate is good for; some clients take no longer one.
const SERVER: Duration = Duration::from_secs(397 * 24 * 60 * 60);
/// When it is made anew: well before its end.
const RENEW: Duration = Duration::from_secs(300 * 24 * 60 * 60);

/// The files in a directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) authority: PathBuf,
    authority_key: PathBuf,
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    names: PathBuf,
}

impl Files {
    pub(super) fn of(dir: &Path) -> Self {
        Self {
            authority: dir.join("ca.pem"),
            authority_key: dir.join("ca.key"),
            chain: dir.join("server.pem"),
            key: dir.join("server.key"),
            names: dir.join("names"),
        }
    }
}

/// Makes what is missing, too old or for other names. Keys are readable by their owner alone.
///
/// # Errors
/// What the file system says, with the file.
pub(super) fn provide(dir: &Path, names: &[String], now: SystemTime) -> io::Result<Files> {
    let files = Files::of(dir);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| about(dir, &e))?;
    let made_authority = !(files.authority.exists() && files.authority_key.exists());
    if made_authority {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = authority(now).self_signed(&key).map_err(io::Error::other)?;
        write(&files.authority_key, &key.serialize_pem(), 0o600)?;
        write(&files.authority, &certificate.pem(), 0o644)?;
    }
    let wanted = names.join("\n");
    if made_authority || stale(&files, &wanted, now) {
        let text = fs::read_to_string(&files.authority_key)
            .map_err(|e| about(&files.authority_key, &e))?;
        let authority_key = KeyPair::from_pem(&text)
            .map_err(|e| about(&files.authority_key, &io::Error::other(e)))?;
        // Only its name and key go into what it signs, so its own dates need not be known.
        let issuer = Issuer::new(authority(now), authority_key);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = server(names, now)?
            .signed_by(&key, &issuer)
            .map_err(io::Error::other)?;
        // The names last: whatever breaks off before is made again.
        write(&files.key, &key.serialize_pem(), 0o600)?;
        write(&files.chain, &certificate.pem(), 0o644)?;
        write(&files.names, &wanted, 0o644)?;
    }
    Ok(files)
}

fn stale(files: &Files, wanted: &str, now: SystemTime) -> bool {
    let made = fs::metadata(&files.chain).and_then(|m| m.modified());
    let Ok(made) = made else {
        return true;
    };
    !files.key.exists()
        || fs::read_to_string(&files.names).ok().as_deref() != Some(wanted)
        || now.duration_since(made).is_ok_and(|age| age > RENEW)
}

fn authority(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(
        DnType::CommonName,
        "Container groups: authority of this server",
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - DAY).into();
    params.not_after = (now + AUTHORITY).into();
    params
}

fn server(names: &[String], now: SystemTime) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(names.to_vec())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let name = names.first().map_or("localhost", String::as_str);
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = (now - DAY).into();
    params.not_after = (now + SERVER).into();
    Ok(params)
}

/// Writes a file beside and moves it into place, so that nobody reads half of it.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(|e| about(&beside, &e))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|e| about(path, &e))
}

pub(super) fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
