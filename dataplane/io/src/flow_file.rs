//! The file that the flow table lives in, so that the flows outlive the process.
//!
//! ```text
//!   STATE_DIR/eth0.flows   mode 0600, on a file system in memory (/run)
//!   0                     4096
//!   +---------------------+--------+--------+-- ... --+
//!   | header, then zeroes | line 0 | line 1 |         |   all of it allocated
//!   +---------------------+--------+--------+-- ... --+
//!            |                 |
//!            |                 +-- mapped, shared: the workers read and write nothing else
//!            +-- whose flows these are: boot, number of lines, secret, form
//! ```
//!
//! A flow is one word, so whatever moment a process dies at, the words that it leaves are right, and
//! there is nothing to put in order: the next process maps the file and goes on. It does so only if
//! the header is what it would write itself: the times in the entries are of this boot's clock, and
//! the entries are found under this table's secret by this cluster's hash. Else it begins anew.
//!
//! - The file is locked with flock(2) for as long as the [`FlowFile`] lives: two processes never
//!   share a table.
//! - The mapping is never undone while the process lives, so the lines are `'static`.
//! - Every page is allocated before it is mapped: an access never finds the file system full, which
//!   would be a SIGBUS. Only somebody with our privileges can shorten the file under us.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, slice};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use vipdp_core::flow::{FlowTable, Form, Line};
use vipdp_core::hash::ClientHash;

/// Where the file tells which boot it is of.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Length of a boot's identification: a UUID as text.
const BOOT_LEN: usize = 36;

/// What the file begins with.
const MAGIC: [u8; 8] = *b"vipdpflo";
/// Bytes of the header and of what follows up to the first line: a page, so that lines begin where
/// pages do.
const HEADER_LEN: usize = 4096;
/// Layout of the header and of what follows it. What the entries look like is in the [`Form`].
const VERSION: u64 = 1;
/// Tells how a word is stored.
const BYTE_ORDER: u64 = 0x0102_0304_0506_0708;

/// Why there is no flow file.
#[derive(Debug, thiserror::Error)]
pub enum FlowFileError {
    /// The kernel refuses something.
    #[error(
        "{path}: {what}: {source}; the flow table takes {bytes} bytes there: give another place \
         with `flows_file`, or \"none\" for flows that end with the process"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The file's length.
        bytes: u64,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another process has its flows there.
    #[error(
        "{path}: another process has its flows there; stop that one, or give each a file of its \
         own with `flows_file`"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// There is something else by that name.
    #[error("{path}: {reason}; give another place with `flows_file`, or remove what is there")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
    /// The kernel does not tell its boot.
    #[error("{BOOT_ID}: {0}")]
    Boot(#[source] io::Error),
}

/// Why the flows in a file are not those of this process's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its process died while it made the file.
    Unfinished,
    /// Others than its owner could read the secret, or change the flows.
    Exposed,
    /// Another version of vipdp has written it, one with another layout.
    Version(u64),
    /// A machine of another kind has written it.
    Machine,
    /// The clock that the flows' times are of ended with its boot.
    Boot,
    /// The table is of another size: it had room for so many flows.
    Capacity(u64),
    /// It is shorter or longer than its table.
    Length,
    /// Flows go by other names: another hash key or hash input, or other functions.
    Form,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unfinished => "its process died while it made the file",
            Self::Exposed => "others than its owner could read or write it",
            Self::Version(version) => {
                return write!(f, "it has version {version}, and this is version {VERSION}");
            }
            Self::Machine => "a machine of another kind has written it",
            Self::Boot => "it is of an earlier boot",
            Self::Capacity(flows) => {
                return write!(f, "it has room for {flows} flows, and flows_max is another");
            }
            Self::Length => "it is shorter or longer than its table",
            Self::Form => {
                "its flows were hashed with another key, another input or another function"
            }
        })
    }
}

/// What was in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: there was no such file.
    Nothing,
    /// A table that this process cannot use, and has replaced by an empty one.
    Unfit(Unfit),
    /// The table of an earlier process, which is now this one's.
    Table,
}

/// A flow table's memory in a file, locked.
pub struct FlowFile {
    /// What was in the file.
    pub found: Found,
    /// Whether the file system is one in memory. On any other, workers wait now and then for the
    /// kernel to write a page back.
    pub in_memory: bool,
    lines: &'static [Line],
    secret: [u64; 2],
    _lock: Flock<File>,
}

impl FlowFile {
    /// Opens or makes the file at `path` for a table of `flows_max` flows, hashed by `client_hash`. If
    /// the table that is there does not fit, an empty one with `secret` takes its place.
    ///
    /// # Errors
    /// When another process has it locked, when there is something else by that name, or when the
    /// kernel refuses the memory.
    pub fn open(
        path: &Path,
        flows_max: usize,
        client_hash: &ClientHash,
        secret: [u64; 2],
    ) -> Result<Self, FlowFileError> {
        let lines = FlowTable::lines_for(flows_max);
        let len = HEADER_LEN + lines * size_of::<Line>();
        let failed = |what, source| {
            let path = path.to_owned();
            FlowFileError::Io { path, what, bytes: len as u64, source }
        };
        let file = open(path).map_err(|source| failed("cannot be opened", source))?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(
                |(_, errno)| match errno {
                    Errno::EWOULDBLOCK => FlowFileError::Locked { path: path.to_owned() },
                    errno => failed("cannot be locked", errno.into()),
                },
            )?;
        let boot = boot().map_err(FlowFileError::Boot)?;
        let ours = Header::new(lines as u64, boot, secret, client_hash);

        let found = examine(&lock, len as u64, &ours, client_hash)
            .map_err(|source| failed("cannot be read", source))?
            .map_err(|reason| FlowFileError::NotOurs { path: path.to_owned(), reason })?;
        let secret = match found {
            Content::Table(secret) => secret,
            Content::Nothing | Content::Unfit(_) => {
                lock.set_len(0).map_err(|source| failed("cannot be emptied", source))?;
                secret
            }
        };
        if let Err(source) = allocate(&lock, len) {
            // What there was of memory, others have use for; it had not been a table yet.
            if !matches!(found, Content::Table(_)) {
                let _ = lock.set_len(0);
            }
            return Err(failed("cannot be allocated", source));
        }
        if !matches!(found, Content::Table(_)) {
            ours.write(&lock).map_err(|source| failed("cannot be written", source))?;
        }
        let lines = map(&lock, lines).map_err(|source| failed("cannot be mapped", source))?;
        Ok(Self {
            found: found.into(),
            in_memory: fstatfs(&*lock).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC),
            lines,
            secret,
            _lock: lock,
        })
    }

    /// The table, with the flows that were found.
    pub fn table(&self) -> FlowTable {
        FlowTable::over(self.lines, self.secret)
    }
}

impl fmt::Debug for FlowFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the secret nor 16 million entries.
        f.debug_struct("FlowFile").field("found", &self.found).finish_non_exhaustive()
    }
}

/// What [`examine`] found, with the secret of a table that fits.
#[derive(Clone, Copy)]
enum Content {
    Nothing,
    Unfit(Unfit),
    Table([u64; 2]),
}

impl From<Content> for Found {
    fn from(content: Content) -> Self {
        match content {
            Content::Nothing => Self::Nothing,
            Content::Unfit(unfit) => Self::Unfit(unfit),
            Content::Table(_) => Self::Table,
        }
    }
}

/// Opens the file, or makes it. A symbolic link is refused: its file could be any.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // Non-blocking, lest it be a pipe's other end that is waited for.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// What the file has in it; the inner error is why it cannot be ours at all.
fn examine(
    file: &File,
    len: u64,
    ours: &Header,
    client_hash: &ClientHash,
) -> io::Result<Result<Content, &'static str>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err("it is not a regular file"));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(Err("it belongs to another user"));
    }
    if metadata.len() == 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
        return Ok(Ok(Content::Nothing));
    }
    let mut header = [0; Header::LEN];
    let known = match file.read_exact_at(&mut header, 0) {
        Ok(()) => header[..8] == MAGIC || header == [0; Header::LEN],
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    if !known {
        return Ok(Err("it is not a flow file of vipdp"));
    }
    if metadata.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
        return Ok(Ok(Content::Unfit(Unfit::Exposed)));
    }
    Ok(Ok(match ours.read(&header, metadata.len() == len, client_hash) {
        Ok(secret) => Content::Table(secret),
        Err(unfit) => Content::Unfit(unfit),
    }))
}

/// What tells whose flows a file has.
struct Header {
    lines: u64,
    boot: [u8; BOOT_LEN],
    secret: [u64; 2],
    form: Form,
}

impl Header {
    /// Offset of the boot's identification, behind the magic and four words.
    const BOOT_AT: usize = 40;
    /// Offset of the secret.
    const SECRET_AT: usize = Self::BOOT_AT + BOOT_LEN + 4;
    /// Offset of the form.
    const FORM_AT: usize = Self::SECRET_AT + 16;
    /// Bytes of a header.
    const LEN: usize = Self::FORM_AT + Form::WORDS * 8;

    fn new(lines: u64, boot: [u8; BOOT_LEN], secret: [u64; 2], client_hash: &ClientHash) -> Self {
        Self { lines, boot, secret, form: Form::new(secret, client_hash) }
    }

    fn bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        let words = [BYTE_ORDER, VERSION, size_of::<usize>() as u64, self.lines];
        put(&mut bytes[8..Self::BOOT_AT], &words);
        bytes[Self::BOOT_AT..][..BOOT_LEN].copy_from_slice(&self.boot);
        put(&mut bytes[Self::SECRET_AT..Self::FORM_AT], &self.secret);
        put(&mut bytes[Self::FORM_AT..], &self.form.0);
        bytes
    }

    /// Writes it into an empty file: the magic last, which makes a flow file of it.
    fn write(&self, file: &File) -> io::Result<()> {
        let bytes = self.bytes();
        file.write_all_at(&bytes[8..], 8)?;
        file.write_all_at(&bytes[..8], 0)
    }

    /// The secret of the table that `found` is the header of, if that is such a table as this one.
    fn read(
        &self,
        found: &[u8; Self::LEN],
        is_whole: bool,
        client_hash: &ClientHash,
    ) -> Result<[u64; 2], Unfit> {
        if found[..8] != MAGIC {
            return Err(Unfit::Unfinished);
        }
        let word = |at: usize| {
            u64::from_ne_bytes(found[at..at + 8].try_into().expect("a slice of eight bytes"))
        };
        if word(8) != BYTE_ORDER {
            return Err(Unfit::Machine);
        }
        if word(16) != VERSION {
            return Err(Unfit::Version(word(16)));
        }
        if word(24) != size_of::<usize>() as u64 {
            return Err(Unfit::Machine);
        }
        if found[Self::BOOT_AT..][..BOOT_LEN] != self.boot {
            return Err(Unfit::Boot);
        }
        if word(32) != self.lines {
            let flows_in_line = size_of::<Line>() as u64 / 8;
            return Err(Unfit::Capacity(word(32).saturating_mul(flows_in_line)));
        }
        if !is_whole {
            return Err(Unfit::Length);
        }
        let secret = [word(Self::SECRET_AT), word(Self::SECRET_AT + 8)];
        let expected = Self::new(self.lines, self.boot, secret, client_hash);
        if expected.bytes() == *found { Ok(secret) } else { Err(Unfit::Form) }
    }
}

fn put(bytes: &mut [u8], words: &[u64]) {
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
}

fn boot() -> io::Result<[u8; BOOT_LEN]> {
    let mut boot = [0; BOOT_LEN];
    File::open(BOOT_ID)?.read_exact(&mut boot)?;
    Ok(boot)
}

/// Gives the file its length and all the memory that goes with it, and keeps what is there.
fn allocate(file: &File, len: usize) -> io::Result<()> {
    let bytes = i64::try_from(len).map_err(io::Error::other)?;
    loop {
        match fallocate(file.as_fd(), FallocateFlags::empty(), 0, bytes) {
            Err(Errno::EINTR) => {}
            allocated => return Ok(allocated?),
        }
    }
}

/// Maps the lines, every page at once: a worker never waits for one.
fn map(file: &File, lines: usize) -> io::Result<&'static [Line]> {
    let len = HEADER_LEN + lines * size_of::<Line>();
    let len = std::num::NonZeroUsize::new(len).expect("a header is not empty");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
    // SAFETY: the kernel chooses the place, so no memory that is in use is mapped over; the file is
    // open for reading and writing, as MAP_SHARED with PROT_WRITE demands.
    let memory = unsafe { mmap(None, len, protection, flags, file, 0) }?;
    // SAFETY: the mapping is readable, writable, `len` bytes long and never undone, so what is made
    // of it may live for ever. Lines begin behind the header, HEADER_LEN bytes after a page's
    // beginning, which is a multiple of a line's alignment, and `lines` of them fit. A `Line` is
    // 64 bytes of atomic words without padding (`repr(C)`), and any bytes are one. Other processes
    // may write to the file; whoever does, and we, access the lines through atomics alone.
    Ok(unsafe { slice::from_raw_parts(memory.byte_add(HEADER_LEN).cast().as_ptr(), lines) })
}

const _: () = assert!(HEADER_LEN.is_multiple_of(align_of::<Line>()) && HEADER_LEN > Header::LEN);

#[cfg(test)]
#[path = "flow_file_tests.rs"]
mod tests;
