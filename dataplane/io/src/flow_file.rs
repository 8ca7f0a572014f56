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
//! the entries are found under this table's secret by this cluster's hash. Else it begins anew. So
//! it does if nobody has written [`FlowFile::stamp`] for [`GONE_MAX`]: clients end connections, and
//! use their ports again for others that other nodes have.
//!
//! - The file is locked with flock(2) for as long as the [`FlowFile`] lives: two processes never
//!   share a table.
//! - The mapping is never undone while the process lives, so the lines are `'static`.
//! - Every page is allocated before it is mapped: an access never finds the file system full, which
//!   would be a SIGBUS. Only somebody with our privileges can shorten the file under us.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, slice};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use vipdp_core::flow::{FlowTable, Form, Line};
use vipdp_core::hash::ClientHash;

use crate::{boot, huge_pages};

/// Length of a boot's identification: a UUID as text.
const BOOT_LEN: usize = 36;

/// For how long no process may have had the flows. 120 s: a client whose connection stands still, and
/// that closes it, repeats its FIN for some 100 s (Linux, `tcp_orphan_retries` 8) and may then use
/// the port again. Were that connection's flow still here, the host would reset the new one, which
/// another node may have.
pub const GONE_MAX: Duration = Duration::from_secs(120);

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
    #[error("{path}: {0}", path = boot::PATH)]
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
    /// Nobody has had it for longer than [`GONE_MAX`].
    Gone(Duration),
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
            Self::Gone(time) => {
                return write!(f, "its process has been gone for {} s", time.as_secs());
            }
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
    lines: &'static [Line],
    /// When a process had it last: the word of the header that changes.
    alive_ns: &'static AtomicU64,
    secret: [u64; 2],
    _lock: Flock<File>,
}

/// Whether a file at `path` is, or would be, on a file system in memory. On any other, workers wait now and then for
/// the kernel to write a page back.
///
/// # Errors
/// When nothing of the path is there, or the kernel does not tell.
pub fn is_in_memory(path: &Path) -> io::Result<bool> {
    let there = path.ancestors().find(|ancestor| ancestor.exists());
    let there = there.ok_or(io::ErrorKind::NotFound)?;
    Ok(statfs(there)?.filesystem_type() == TMPFS_MAGIC)
}

impl FlowFile {
    /// Opens or makes the file at `path` for a table of `flows_max` flows, hashed by `client_hash`, at
    /// `now_ns` nanoseconds of the monotonic clock. If the table that is there does not fit, an
    /// empty one with `secret` takes its place.
    ///
    /// # Errors
    /// When another process has it locked, when there is something else by that name, or when the
    /// kernel refuses the memory.
    pub fn open(
        path: &Path,
        flows_max: usize,
        client_hash: &ClientHash,
        secret: [u64; 2],
        now_ns: u64,
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
        let boot = boot::id()
            .and_then(|id| id.as_bytes().try_into().map_err(io::Error::other))
            .map_err(FlowFileError::Boot)?;
        let ours = Header::new(lines as u64, boot, secret, client_hash);

        let found = examine(&lock, len as u64, &ours, client_hash, now_ns)
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
        let (lines, alive_ns) =
            map(&lock, lines).map_err(|source| failed("cannot be mapped", source))?;
        alive_ns.store(now_ns, Ordering::Relaxed);
        Ok(Self { found: found.into(), lines, alive_ns, secret, _lock: lock })
    }

    /// Tells the next process that this one had the flows at `now_ns`. To be called every second or
    /// so.
    pub fn stamp(&self, now_ns: u64) {
        self.alive_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Moves the table into huge pages, as [`huge_pages::gather`] does, its beginning included.
    ///
    /// # Errors
    /// As there.
    pub fn gather(&self) -> io::Result<()> {
        let lines = self.lines.as_ptr_range();
        huge_pages::gather_places(lines.start.addr() - HEADER_LEN..lines.end.addr())
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
    now_ns: u64,
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
    let secret = match ours.read(&header, metadata.len() == len, client_hash) {
        Ok(secret) => secret,
        Err(unfit) => return Ok(Ok(Content::Unfit(unfit))),
    };
    let mut alive_ns = [0; 8];
    file.read_exact_at(&mut alive_ns, ALIVE_AT as u64)?;
    let gone = now_ns.checked_sub(u64::from_ne_bytes(alive_ns)).map(Duration::from_nanos);
    Ok(Ok(match gone {
        // A time to come: the clock is another one.
        None => Content::Unfit(Unfit::Boot),
        Some(gone) if gone > GONE_MAX => Content::Unfit(Unfit::Gone(gone)),
        Some(_) => Content::Table(secret),
    }))
}

/// Offset of the word that [`FlowFile::stamp`] writes, in a cache line of its own.
const ALIVE_AT: usize = 192;

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

/// Gives the file its length and all the memory that goes with it, and keeps what is there. The
/// length first: tmpfs with `huge=within_size` has huge pages only for what is within.
fn allocate(file: &File, len: usize) -> io::Result<()> {
    file.set_len(len as u64)?;
    let bytes = i64::try_from(len).map_err(io::Error::other)?;
    loop {
        match fallocate(file.as_fd(), FallocateFlags::empty(), 0, bytes) {
            Err(Errno::EINTR) => {}
            allocated => return Ok(allocated?),
        }
    }
}

/// Maps the lines and the word before them, every page at once: a worker never waits for one.
///
/// The mapping begins where a huge page would, as the file does: only so can its pages be huge ones
/// ([`huge_pages`]).
fn map(file: &File, lines: usize) -> io::Result<(&'static [Line], &'static AtomicU64)> {
    let len = HEADER_LEN + lines * size_of::<Line>();
    let len = NonZeroUsize::new(len).expect("a header is not empty");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let place = reserve(len)?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE | MapFlags::MAP_FIXED;
    // SAFETY: the place was reserved for this, `len` bytes and nothing in it, so no memory that is in use
    // is mapped over; the file is open for reading and writing, as MAP_SHARED with PROT_WRITE demands.
    let memory = unsafe { mmap(Some(place), len, protection, flags, file, 0) }?;
    // SAFETY: the mapping is readable, writable, `len` bytes long and never undone, so what is made
    // of it may live for ever. Lines begin behind the header, HEADER_LEN bytes after a page's
    // beginning, which is a multiple of a line's alignment, and `lines` of them fit. A `Line` is
    // 64 bytes of atomic words without padding (`repr(C)`), and any bytes are one. Other processes
    // may write to the file; whoever does, and we, access the lines through atomics alone.
    let lines =
        unsafe { slice::from_raw_parts(memory.byte_add(HEADER_LEN).cast().as_ptr(), lines) };
    // SAFETY: likewise; ALIVE_AT is a multiple of a word's alignment, inside the header, and no
    // line is there.
    let alive_ns = unsafe { memory.byte_add(ALIVE_AT).cast::<AtomicU64>().as_ref() };
    Ok((lines, alive_ns))
}

/// The address of `len` bytes of no memory, aligned as a huge page is, which nothing else is mapped to.
fn reserve(len: NonZeroUsize) -> io::Result<NonZeroUsize> {
    let align = huge_pages::USUAL_PAGE_LEN;
    let with_room = len.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: the kernel chooses the place, so no memory that is in use is mapped over.
    let place = unsafe { mmap_anonymous(None, with_room, ProtFlags::PROT_NONE, flags) }?;
    // What is left of it beside the table is addresses without memory.
    let aligned = place.addr().get().next_multiple_of(align);
    Ok(NonZeroUsize::new(aligned).expect("it is not below where the kernel maps"))
}

const _: () = assert!(HEADER_LEN.is_multiple_of(align_of::<Line>()));
const _: () = assert!(Header::LEN <= ALIVE_AT && ALIVE_AT + 8 <= HEADER_LEN);
const _: () = assert!(ALIVE_AT.is_multiple_of(align_of::<AtomicU64>()));

#[cfg(test)]
#[path = "flow_file_tests.rs"]
mod tests;
