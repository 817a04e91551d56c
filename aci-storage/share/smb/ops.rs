//! What is asked of a share, typed.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use smb2::msg::close::CloseRequest;
use smb2::msg::create::{
    CreateDisposition, CreateRequest, CreateResponse, ImpersonationLevel, ShareAccess,
};
use smb2::msg::create_context::{
    self, DurableGrant, DurableReconnectV2, DurableRequestV2, OnDiskId,
};
pub(crate) use smb2::msg::directory_info::DirectoryInfoEntry as DirectoryEntry;
use smb2::msg::directory_info::parse_entries;
use smb2::msg::flush::FlushRequest;
use smb2::msg::lock::{
    LockElement, LockRequest, SMB2_LOCKFLAG_EXCLUSIVE_LOCK, SMB2_LOCKFLAG_FAIL_IMMEDIATELY,
    SMB2_LOCKFLAG_SHARED_LOCK, SMB2_LOCKFLAG_UNLOCK,
};
use smb2::msg::query_directory::{
    FileInformationClass, QueryDirectoryFlags, QueryDirectoryRequest, QueryDirectoryResponse,
};
use smb2::msg::query_info::{InfoType, QueryInfoRequest, QueryInfoResponse};
use smb2::msg::read::ReadRequest;
use smb2::msg::set_info::SetInfoRequest;
use smb2::pack::{FileTime, Guid, Pack, ReadCursor, Unpack, WriteCursor};
use smb2::types::flags::{FileAccessMask, FileAttributes};
use smb2::types::{Command, FileId, OplockLevel};

use super::link::{Ask, Link, Reply};
use super::{Fault, lease, status};

pub(crate) use smb2::types::flags::FileAccessMask as Access;

/// In a chain: the file that the message before opened.
const OPENED: FileId = FileId::SENTINEL;
const ANY: u32 = 0;
const DIRECTORY: u32 = 0x01;
const NOT_DIRECTORY: u32 = 0x40;
const OPEN_REPARSE_POINT: u32 = 0x0020_0000;
/// How large an answer to a question about a file is at most.
const ANSWER: u32 = 4096;
/// Size of a listing's pieces, in bytes.
const LISTING: u32 = 256 << 10;

/// What an opened path has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    File,
    Directory,
}

/// What a server tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) size: u64,
    pub(crate) allocated: u64,
    pub(crate) created: FileTime,
    pub(crate) accessed: FileTime,
    pub(crate) written: FileTime,
    pub(crate) changed: FileTime,
    pub(crate) bits: u32,
    /// It stands for a symbolic link, whose target is so long.
    pub(crate) link: Option<u16>,
}

impl Attributes {
    /// Those of a file of which nothing is known.
    pub(crate) const UNKNOWN: Self = Self {
        size: 0,
        allocated: 0,
        created: FileTime::ZERO,
        accessed: FileTime::ZERO,
        written: FileTime::ZERO,
        changed: FileTime::ZERO,
        bits: 0,
        link: None,
    };

    pub(crate) fn is_directory(&self) -> bool {
        self.bits & FileAttributes::DIRECTORY != 0
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.bits & FileAttributes::READONLY != 0
    }
}

impl From<&CreateResponse> for Attributes {
    fn from(response: &CreateResponse) -> Self {
        Self {
            size: response.end_of_file,
            allocated: response.allocation_size,
            created: response.creation_time,
            accessed: response.last_access_time,
            written: response.last_write_time,
            changed: response.change_time,
            bits: response.file_attributes,
            link: None,
        }
    }
}

impl From<&DirectoryEntry> for Attributes {
    fn from(entry: &DirectoryEntry) -> Self {
        Self {
            size: entry.end_of_file,
            allocated: entry.allocation_size,
            created: entry.creation_time,
            accessed: entry.last_access_time,
            written: entry.last_write_time,
            changed: entry.change_time,
            bits: entry.file_attributes,
            link: None,
        }
    }
}

/// A time of a file; what is not known is the epoch.
pub(crate) fn time(of: FileTime) -> SystemTime {
    of.to_system_time().unwrap_or(UNIX_EPOCH)
}

/// How a path is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open<'a> {
    /// Below the share, components parted by a backslash; empty for the share itself.
    pub(crate) path: &'a str,
    pub(crate) access: u32,
    pub(crate) how: CreateDisposition,
    pub(crate) kind: Kind,
    /// Survives a lost connection under this name, with this lease.
    pub(crate) durable: Option<Durable>,
}

/// By what an open file is asked back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Durable {
    pub(crate) guid: [u8; 16],
    pub(crate) lease: [u8; 16],
    /// What is asked for under the lease.
    pub(crate) state: u32,
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) file: FileId,
    pub(crate) attributes: Attributes,
    /// The server keeps it open when the connection is lost.
    pub(crate) durable: bool,
    /// What the lease grants.
    pub(crate) lease: lease::Granted,
    /// Which file it is, on the server: another file under the same name has another number.
    pub(crate) number: u64,
}

fn create(open: &Open<'_>, contexts: Vec<u8>) -> CreateRequest {
    let lease = open.durable.is_some();
    CreateRequest {
        requested_oplock_level: if lease {
            OplockLevel::Lease
        } else {
            OplockLevel::None
        },
        impersonation_level: ImpersonationLevel::Impersonation,
        desired_access: FileAccessMask::new(open.access),
        file_attributes: 0,
        share_access: ShareAccess(
            ShareAccess::FILE_SHARE_READ
                | ShareAccess::FILE_SHARE_WRITE
                | ShareAccess::FILE_SHARE_DELETE,
        ),
        create_disposition: open.how,
        create_options: match open.kind {
            Kind::Any => ANY | OPEN_REPARSE_POINT,
            Kind::File => NOT_DIRECTORY,
            Kind::Directory => DIRECTORY,
        },
        name: open.path.to_owned(),
        create_contexts: contexts,
    }
}

fn close() -> CloseRequest {
    CloseRequest {
        flags: 0,
        file_id: OPENED,
    }
}

fn question(kind: InfoType, class: u8, file: FileId) -> QueryInfoRequest {
    QueryInfoRequest {
        info_type: kind,
        file_info_class: class,
        output_buffer_length: ANSWER,
        additional_information: 0,
        flags: 0,
        file_id: file,
        input_buffer: Vec::new(),
    }
}

/// `FileInternalInformation`: the number of the file.
const INTERNAL: u8 = 6;
/// `FileNetworkOpenInformation`: times, sizes and attributes.
const NETWORK_OPEN: u8 = 34;
/// `FileFsFullSizeInformation`.
const FULL_SIZE: u8 = 7;
/// `FileBasicInformation`: times and attributes.
const BASIC: u8 = 4;
/// `FileRenameInformation`.
const RENAME: u8 = 10;
/// `FileDispositionInformation`.
const DISPOSITION: u8 = 13;
/// `FileEndOfFileInformation`.
const END_OF_FILE: u8 = 20;

fn change(class: u8, file: FileId, buffer: Vec<u8>) -> SetInfoRequest {
    SetInfoRequest {
        info_type: InfoType::File,
        file_info_class: class,
        additional_information: 0,
        file_id: file,
        buffer,
    }
}

/// The first fault of a chain; what follows a failed message only repeats it.
fn all(replies: Vec<Result<Reply, Fault>>) -> Result<Vec<Reply>, Fault> {
    replies.into_iter().collect()
}

fn first<T>(mut items: Vec<T>) -> Result<T, Fault> {
    if items.is_empty() {
        return Err(Fault::protocol("an answer is missing"));
    }
    Ok(items.swap_remove(0))
}

fn created(reply: &Reply) -> Result<CreateResponse, Fault> {
    Ok(CreateResponse::unpack(&mut ReadCursor::new(&reply.body))?)
}

fn answer(reply: &Reply) -> Result<Vec<u8>, Fault> {
    Ok(QueryInfoResponse::unpack(&mut ReadCursor::new(&reply.body))?.output_buffer)
}

fn number(reply: &Reply) -> Result<u64, Fault> {
    let bytes = answer(reply)?;
    bytes
        .first_chunk()
        .map(|b| u64::from_le_bytes(*b))
        .ok_or_else(|| Fault::protocol("a file without a number"))
}

/// What an open asks for besides the file: which it is, and that it outlives the connection.
fn wanted(open: &Open<'_>) -> Vec<u8> {
    let mut contexts = vec![OnDiskId::request()];
    if let Some(durable) = &open.durable {
        let request = DurableRequestV2 {
            timeout_ms: 60_000,
            persistent: false,
            create_guid: guid(durable.guid),
        };
        contexts.push(request.context());
        contexts.push(lease::context(durable.lease, durable.state));
    }
    create_context::pack_contexts(&contexts)
}

fn reading(file: FileId, offset: u64, size: u32) -> ReadRequest {
    ReadRequest {
        padding: 0x50,
        flags: 0,
        length: size,
        offset,
        file_id: file,
        minimum_count: 0,
        channel: 0,
        remaining_bytes: 0,
        read_channel_info: Vec::new(),
    }
}

/// The data of an answer to a read, taken out of the message as it lies there.
fn content(reply: Reply, size: u32) -> Result<Bytes, Fault> {
    let body = reply.body;
    let malformed = || Fault::protocol("an answer to a read that is malformed");
    let at = usize::from(*body.get(2).ok_or_else(malformed)?);
    let length = body
        .get(4..8)
        .and_then(|b| b.first_chunk())
        .map(|b| u32::from_le_bytes(*b))
        .ok_or_else(malformed)?;
    let start = at.checked_sub(64).ok_or_else(malformed)?;
    let end = start + length as usize;
    if length > size || end > body.len() {
        return Err(malformed());
    }
    Ok(body.slice(start..end))
}

impl Link {
    /// Opens a file or directory and asks which it is.
    pub(crate) async fn open(&self, open: &Open<'_>) -> Result<Opened, Fault> {
        let (opened, _) = self.opened(create(open, wanted(open)), 0).await?;
        Ok(opened)
    }

    /// Opens a file and reads its beginning with the same message; `None` if that cannot be read.
    pub(crate) async fn open_and_read(
        &self,
        open: &Open<'_>,
        size: u32,
    ) -> Result<(Opened, Option<Bytes>), Fault> {
        self.opened(create(open, wanted(open)), size.min(self.limits.read))
            .await
    }

    /// Asks for more under the lease of an open file, by opening it once more; what is granted, and of
    /// which file. The lease stays with the other open.
    pub(crate) async fn upgrade(&self, open: &Open<'_>) -> Result<(lease::Granted, u64), Fault> {
        let mut contexts = vec![OnDiskId::request()];
        contexts.extend(open.durable.map(|d| lease::context(d.lease, d.state)));
        let request = create(open, create_context::pack_contexts(&contexts));
        let replies = all(self
            .chain(&[
                Ask::new(Command::Create, &request),
                Ask::new(Command::Close, &close()),
            ])
            .await?)?;
        let response = created(&first(replies)?)?;
        let contexts = create_context::parse_contexts(&response.create_contexts)?;
        let number = match create_context::find(&contexts, create_context::NAME_QFID) {
            Some(context) => OnDiskId::from_bytes(&context.data)?.disk_file_id,
            None => 0,
        };
        Ok((lease::granted(&contexts), number))
    }

    /// Asks for an open file back that an earlier connection had.
    pub(crate) async fn reclaim(&self, open: &Open<'_>, file: FileId) -> Result<Opened, Fault> {
        let Some(durable) = &open.durable else {
            return Err(Fault::Stale);
        };
        let contexts = create_context::pack_contexts(&[
            DurableReconnectV2 {
                file_id: file,
                create_guid: guid(durable.guid),
                persistent: false,
            }
            .context(),
            lease::context(durable.lease, durable.state),
        ]);
        let (mut opened, _) = self.opened(create(open, contexts), 0).await?;
        opened.durable = true;
        Ok(opened)
    }

    async fn opened(
        &self,
        request: CreateRequest,
        beginning: u32,
    ) -> Result<(Opened, Option<Bytes>), Fault> {
        let read = reading(OPENED, 0, beginning);
        let mut asks = vec![Ask::new(Command::Create, &request)];
        if beginning > 0 {
            // The last of the chain: a server may only let that one take its time.
            let mut ask = Ask::new(Command::Read, &read);
            ask.size = beginning as usize;
            asks.push(ask);
        }
        let mut replies = self.chain(&asks).await?.into_iter();
        let response = created(&replies.next().unwrap_or(Err(Fault::Lost))?)?;
        let contexts = create_context::parse_contexts(&response.create_contexts)?;
        let durable = create_context::find(&contexts, create_context::NAME_DH2Q)
            .map(|c| DurableGrant::from_bytes(&c.data))
            .transpose()?;
        let number = match create_context::find(&contexts, create_context::NAME_QFID) {
            Some(context) => OnDiskId::from_bytes(&context.data)?.disk_file_id,
            None => self.number(response.file_id).await?,
        };
        let data = match replies.next() {
            Some(Ok(reply)) => Some(content(reply, beginning)?),
            Some(Err(Fault::Status(status::END_OF_FILE))) => Some(Bytes::new()),
            _ => None,
        };
        let opened = Opened {
            file: response.file_id,
            attributes: (&response).into(),
            durable: durable.is_some(),
            lease: lease::granted(&contexts),
            number,
        };
        Ok((opened, data))
    }

    /// Which file it is, where the open has not told; 0 where the server does not know.
    async fn number(&self, file: FileId) -> Result<u64, Fault> {
        let which = question(InfoType::File, INTERNAL, file);
        match self.ask(Ask::new(Command::QueryInfo, &which)).await {
            Ok(reply) => number(&reply),
            Err(fault) if fault.is_loss() => Err(fault),
            Err(_) => Ok(0),
        }
    }

    /// What the server tells of a path.
    pub(crate) async fn stat(&self, path: &str) -> Result<Attributes, Fault> {
        let request = create(
            &Open {
                path,
                access: Access::FILE_READ_ATTRIBUTES,
                how: CreateDisposition::FileOpen,
                kind: Kind::Any,
                durable: None,
            },
            Vec::new(),
        );
        let replies = all(self
            .chain(&[
                Ask::new(Command::Create, &request),
                Ask::new(Command::Close, &close()),
            ])
            .await?)?;
        Ok((&created(&first(replies)?)?).into())
    }

    /// What the server tells of an open file.
    pub(crate) async fn stat_open(&self, file: FileId) -> Result<Attributes, Fault> {
        let request = question(InfoType::File, NETWORK_OPEN, file);
        let bytes = answer(&self.ask(Ask::new(Command::QueryInfo, &request)).await?)?;
        let mut cursor = ReadCursor::new(&bytes);
        let mut next = || cursor.read_u64_le();
        Ok(Attributes {
            created: FileTime(next()?),
            accessed: FileTime(next()?),
            written: FileTime(next()?),
            changed: FileTime(next()?),
            allocated: next()?,
            size: next()?,
            bits: cursor.read_u32_le()?,
            link: None,
        })
    }

    /// Closes an open file.
    pub(crate) async fn close(&self, file: FileId) -> Result<(), Fault> {
        let request = CloseRequest {
            flags: 0,
            file_id: file,
        };
        self.ask(Ask::new(Command::Close, &request)).await.map(drop)
    }

    /// Reads at most `limits.read` bytes; none at the end.
    pub(crate) async fn read(&self, file: FileId, offset: u64, size: u32) -> Result<Bytes, Fault> {
        let size = size.min(self.limits.read);
        let request = reading(file, offset, size);
        let mut ask = Ask::new(Command::Read, &request);
        ask.size = size as usize;
        match self.ask(ask).await {
            Err(Fault::Status(status::END_OF_FILE)) => Ok(Bytes::new()),
            other => content(other?, size),
        }
    }

    /// Writes pieces that follow one another, at most `limits.write` bytes of them, and answers how
    /// many.
    pub(crate) async fn write(
        &self,
        file: FileId,
        offset: u64,
        pieces: &[Bytes],
    ) -> Result<u32, Fault> {
        let mut room = self.limits.write as usize;
        let mut data = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let fits = piece.len().min(room);
            data.push(&piece[..fits]);
            room -= fits;
        }
        let size = self.limits.write as usize - room;
        let head = WriteHead {
            file,
            offset,
            length: u32::try_from(size).unwrap_or(0),
        };
        let ask = Ask {
            command: Command::Write,
            body: &head,
            data: &data,
            size,
        };
        let reply = self.ask(ask).await?;
        reply
            .body
            .get(4..8)
            .and_then(|b| b.first_chunk())
            .map(|b| u32::from_le_bytes(*b))
            .ok_or_else(|| Fault::protocol("an answer to a write that is malformed"))
    }

    /// What was written is on the server's disk.
    pub(crate) async fn flush(&self, file: FileId) -> Result<(), Fault> {
        let request = FlushRequest { file_id: file };
        self.ask(Ask::new(Command::Flush, &request)).await.map(drop)
    }

    /// Cuts or lengthens an open file.
    pub(crate) async fn set_size(&self, file: FileId, size: u64) -> Result<(), Fault> {
        let request = change(END_OF_FILE, file, size.to_le_bytes().to_vec());
        self.ask(Ask::new(Command::SetInfo, &request))
            .await
            .map(drop)
    }

    /// Sets times and attributes of a path; what is `None` stays.
    pub(crate) async fn set_basic(
        &self,
        path: &str,
        accessed: Option<SystemTime>,
        written: Option<SystemTime>,
        bits: Option<u32>,
    ) -> Result<(), Fault> {
        let stamp = |time: Option<SystemTime>| time.map_or(0, |t| FileTime::from_system_time(t).0);
        let mut buffer = WriteCursor::new();
        buffer.write_u64_le(0);
        buffer.write_u64_le(stamp(accessed));
        buffer.write_u64_le(stamp(written));
        buffer.write_u64_le(0);
        buffer.write_u32_le(bits.unwrap_or(0));
        buffer.write_u32_le(0);
        self.alter(
            path,
            Access::FILE_WRITE_ATTRIBUTES,
            Kind::Any,
            change(BASIC, OPENED, buffer.into_inner()),
        )
        .await
    }

    /// Opens, changes one thing and closes, in one message.
    async fn alter(
        &self,
        path: &str,
        access: u32,
        kind: Kind,
        request: SetInfoRequest,
    ) -> Result<(), Fault> {
        let open = create(
            &Open {
                path,
                access,
                how: CreateDisposition::FileOpen,
                kind,
                durable: None,
            },
            Vec::new(),
        );
        all(self
            .chain(&[
                Ask::new(Command::Create, &open),
                Ask::new(Command::SetInfo, &request),
                Ask::new(Command::Close, &close()),
            ])
            .await?)
        .map(drop)
    }

    /// Gives a path another name.
    pub(crate) async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<(), Fault> {
        let mut buffer = WriteCursor::new();
        buffer.write_u64_le(u64::from(replace));
        buffer.write_u64_le(0);
        buffer.write_u32_le(u32::try_from(to.encode_utf16().count() * 2).unwrap_or(0));
        buffer.write_utf16_le(to);
        self.alter(
            from,
            Access::DELETE | Access::FILE_READ_ATTRIBUTES,
            Kind::Any,
            change(RENAME, OPENED, buffer.into_inner()),
        )
        .await
    }

    /// Deletes a file, or an empty directory.
    pub(crate) async fn delete(&self, path: &str, kind: Kind) -> Result<(), Fault> {
        self.alter(
            path,
            Access::DELETE | Access::FILE_READ_ATTRIBUTES,
            kind,
            change(DISPOSITION, OPENED, vec![1]),
        )
        .await
    }

    /// The next piece of a directory's listing; empty at its end.
    pub(crate) async fn list(
        &self,
        directory: FileId,
        restart: bool,
    ) -> Result<Vec<DirectoryEntry>, Fault> {
        let class = FileInformationClass::FileIdBothDirectoryInformation;
        let size = LISTING.min(self.limits.transact);
        let request = QueryDirectoryRequest {
            file_information_class: class,
            flags: QueryDirectoryFlags(if restart {
                QueryDirectoryFlags::RESTART_SCANS
            } else {
                0
            }),
            file_index: 0,
            file_id: directory,
            output_buffer_length: size,
            file_name: "*".to_owned(),
        };
        let mut ask = Ask::new(Command::QueryDirectory, &request);
        ask.size = size as usize;
        let reply = match self.ask(ask).await {
            Err(Fault::Status(status::NO_SUCH_FILE)) => return Ok(Vec::new()),
            other => other?,
        };
        if reply.header.status.0 == status::NO_MORE_FILES {
            return Ok(Vec::new());
        }
        let response = QueryDirectoryResponse::unpack(&mut ReadCursor::new(&reply.body))?;
        Ok(parse_entries(class, &response.output_buffer)?)
    }

    /// Locks or unlocks ranges, all or none; never waits.
    pub(crate) async fn lock(
        &self,
        file: FileId,
        ranges: &[(u64, u64, Locking)],
    ) -> Result<(), Fault> {
        let request = LockRequest {
            lock_sequence: 0,
            file_id: file,
            locks: ranges
                .iter()
                .map(|&(offset, length, locking)| LockElement {
                    offset,
                    length,
                    flags: match locking {
                        Locking::Shared => {
                            SMB2_LOCKFLAG_SHARED_LOCK | SMB2_LOCKFLAG_FAIL_IMMEDIATELY
                        }
                        Locking::Exclusive => {
                            SMB2_LOCKFLAG_EXCLUSIVE_LOCK | SMB2_LOCKFLAG_FAIL_IMMEDIATELY
                        }
                        Locking::Unlock => SMB2_LOCKFLAG_UNLOCK,
                    },
                })
                .collect(),
        };
        self.ask(Ask::new(Command::Lock, &request)).await.map(drop)
    }

    /// How much room the share has.
    pub(crate) async fn room(&self) -> Result<Room, Fault> {
        let open = create(
            &Open {
                path: "",
                access: Access::FILE_READ_ATTRIBUTES,
                how: CreateDisposition::FileOpen,
                kind: Kind::Any,
                durable: None,
            },
            Vec::new(),
        );
        let request = question(InfoType::Filesystem, FULL_SIZE, OPENED);
        let replies = all(self
            .chain(&[
                Ask::new(Command::Create, &open),
                Ask::new(Command::QueryInfo, &request),
                Ask::new(Command::Close, &close()),
            ])
            .await?)?;
        let bytes = answer(
            replies
                .get(1)
                .ok_or_else(|| Fault::protocol("an answer is missing"))?,
        )?;
        let mut cursor = ReadCursor::new(&bytes);
        let (total, free) = (cursor.read_u64_le()?, cursor.read_u64_le()?);
        cursor.skip(8)?;
        let unit = u64::from(cursor.read_u32_le()?) * u64::from(cursor.read_u32_le()?);
        Ok(Room { total, free, unit })
    }
}

/// What is done with a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locking {
    Shared,
    Exclusive,
    Unlock,
}

/// Room on a share, in units of so many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) total: u64,
    pub(crate) free: u64,
    pub(crate) unit: u64,
}

/// A write without its data, which follows in the message.
struct WriteHead {
    file: FileId,
    offset: u64,
    length: u32,
}

impl Pack for WriteHead {
    fn pack(&self, cursor: &mut WriteCursor) {
        cursor.write_u16_le(49);
        cursor.write_u16_le(64 + 48);
        cursor.write_u32_le(self.length);
        cursor.write_u64_le(self.offset);
        cursor.write_u64_le(self.file.persistent);
        cursor.write_u64_le(self.file.volatile);
        cursor.write_zeros(16);
    }
}

/// A number nobody can guess.
pub(crate) fn random() -> Result<[u8; 16], Fault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Fault::protocol(e.to_string()))?;
    Ok(bytes)
}

/// As the protocol writes it.
pub(crate) fn guid(bytes: [u8; 16]) -> Guid {
    let [a, b, c, d, e, f, g, h, data4 @ ..] = bytes;
    Guid {
        data1: u32::from_le_bytes([a, b, c, d]),
        data2: u16::from_le_bytes([e, f]),
        data3: u16::from_le_bytes([g, h]),
        data4,
    }
}
