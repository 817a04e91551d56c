//! Names: any bytes but `/` and NUL for a program, UTF-16 with forbidden characters for a server.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::smb::Fault;

/// Longest name, in UTF-16 units, of Azure Files and of every server known.
const LONGEST: usize = 255;

/// A name as the server has it. Characters that SMB forbids are mapped as the kernel's cifs does
/// by default (`mapposix`).
///
/// # Errors
/// `EILSEQ` for what is not UTF-8, `ENAMETOOLONG` for more than 255 UTF-16 units.
pub(crate) fn to_server(name: &OsStr) -> Result<String, Fault> {
    let name = std::str::from_utf8(name.as_bytes()).map_err(|_| Fault::Errno(libc::EILSEQ))?;
    let name = smb2::encode_name(name);
    if name.encode_utf16().count() > LONGEST {
        return Err(Fault::Errno(libc::ENAMETOOLONG));
    }
    Ok(name.into_owned())
}

/// A server's name as a program sees it; `None` for one that no program could use.
pub(crate) fn from_server(name: &str) -> Option<Cow<'_, str>> {
    let name = smb2::decode_name(name);
    let usable = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    usable.then_some(name)
}

/// Prefix of files that were deleted while they were open; not listed.
pub(crate) const HIDDEN: &str = ".aci-deleted-";

/// A name for a deleted file that is still open; not taken by chance.
pub(crate) fn hidden(random: [u8; 16]) -> String {
    format!("{HIDDEN}{:032x}", u128::from_be_bytes(random))
}
