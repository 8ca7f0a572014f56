//! The TAP: the interface through which accepted frames enter the host.
//!
//! ```text
//!   worker 0 -- TapQueue --+
//!   worker 1 -- TapQueue --+-- vipdp0 (the VIPs, or routes to them) -- the host's stack
//!   worker n -- TapQueue --+
//! ```
//!
//! It belongs to the process: when the last queue is closed, by an orderly end or by SIGKILL, the
//! kernel removes the interface and with it the VIPs, its settings and the routes through it.
//! A write is a frame's way into the stack, done in the caller's context when `write` returns.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use vipdp_core::port::{Host, Refused};

/// Where the kernel hands out TAPs.
const DEVICE: &str = "/dev/net/tun";

/// Queues that one TAP can have (`MAX_TAP_QUEUES` in the kernel's include/linux/if_tap.h).
const QUEUES_MAX: usize = 256;

/// The lowest descriptor that a queue gets. The kernel closes a killed process's files from the
/// highest descriptor down (`task_work_run` in the kernel's kernel/task_work.c), and a TAP takes
/// some 20 ms to go: so the XDP program, of a low descriptor, keeps packets to the VIPs from the
/// host until the host has them no more. The customary limit of 1,024 descriptors leaves room for
/// [`QUEUES_MAX`] above it.
const DESCRIPTOR_MIN: RawFd = 768;

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name cannot be an interface's.
    #[error("TAP {name:?}: an interface's name has 1 to 15 bytes, no '/' and no blank")]
    Name {
        /// The name.
        name: String,
    },
    /// So many queues are impossible.
    #[error("TAP {name}: {queues} queues; 1 to {QUEUES_MAX} are possible")]
    Queues {
        /// The TAP.
        name: String,
        /// The number that was asked for.
        queues: usize,
    },
    /// The device file cannot be opened.
    #[error("TAP {name}: {DEVICE}: {source}; it takes root and the kernel module tun")]
    Open {
        /// The TAP.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// There is an interface of that name.
    #[error("TAP {name}: there is an interface of that name; choose another, or remove it")]
    Exists {
        /// The TAP.
        name: String,
    },
    /// The kernel does not make it.
    #[error("TAP {name}: the kernel does not make it: {source}")]
    Create {
        /// The TAP.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
}

mod ioctl {
    nix::ioctl_write_ptr_bad!(
        /// Makes the file a queue of the interface that the request describes.
        tun_set_iff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
}

/// Makes TAPs.
#[derive(Debug)]
pub struct Tap;

impl Tap {
    /// Makes an interface called `name` in the calling thread's network namespace, and returns its
    /// queues, one for each worker. It is down and has no address: see
    /// [`HostPlan`](crate::host::HostPlan).
    ///
    /// # Errors
    /// When an interface of that name exists, or without the privilege to make one.
    pub fn create(name: &str, queues: usize) -> Result<Vec<TapQueue>, TapError> {
        let request = request(name, queues)?;
        (0..queues).map(|queue| TapQueue::attach(name, &request, queue == 0)).collect()
    }
}

/// The kernel's description of the interface to make.
fn request(name: &str, queues: usize) -> Result<libc::ifreq, TapError> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    let odd = |byte: u8| byte == b'/' || byte == b'%' || !byte.is_ascii_graphic();
    if !fits || name.bytes().any(odd) {
        return Err(TapError::Name { name: name.into() });
    }
    if !(1..=QUEUES_MAX).contains(&queues) {
        return Err(TapError::Queues { name: name.into(), queues });
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short };
    Ok(libc::ifreq { ifr_name, ifr_ifru })
}

/// One queue of a TAP. It does not block.
#[derive(Debug)]
pub struct TapQueue {
    file: File,
}

impl TapQueue {
    fn attach(name: &str, request: &libc::ifreq, first: bool) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)
            .map_err(|source| TapError::Open { name: name.into(), source })?;
        let mut request = *request;
        if first {
            // Without it, the kernel would hand us a persistent TAP of somebody else's.
            // SAFETY: `request` built the union from its `ifru_flags`.
            let flags =
                unsafe { request.ifr_ifru.ifru_flags } | libc::IFF_TUN_EXCL as libc::c_short;
            request.ifr_ifru.ifru_flags = flags;
        }
        // SAFETY: the descriptor is open, and `request` is an initialised ifreq with a name that
        // ends in a zero byte; the kernel reads it and keeps no pointer.
        match unsafe { ioctl::tun_set_iff(file.as_raw_fd(), &raw const request) } {
            Ok(_) => Ok(Self { file: closed_early(file) }),
            Err(Errno::EBUSY | Errno::EEXIST) if first => {
                Err(TapError::Exists { name: name.into() })
            }
            Err(errno) => Err(TapError::Create { name: name.into(), source: errno.into() }),
        }
    }
}

/// The same file by a high descriptor. Where the process may have none that high, as it was: then
/// the host may answer packets to the VIPs for a moment after a SIGKILL.
fn closed_early(file: File) -> File {
    match fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(DESCRIPTOR_MIN)) {
        // SAFETY: the kernel just made this descriptor and nobody else has it.
        Ok(descriptor) => unsafe { File::from_raw_fd(descriptor) },
        Err(_) => file,
    }
}

impl Host for TapQueue {
    /// Writes the frame to the TAP. An interface that is down or gone refuses as a full one does.
    fn deliver(&mut self, frame: &[u8]) -> Result<(), Refused> {
        match nix::unistd::write(&self.file, frame) {
            Ok(_) => Ok(()),
            Err(Errno::EINVAL | Errno::EMSGSIZE) => Err(Refused::TooLong),
            Err(_) => Err(Refused::Full),
        }
    }

    fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.file.read(buffer).ok().filter(|&length| length > 0)
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_change_or_refuse_are_refused() {
        for name in ["", "a name", "a/b", "tap%d", "sixteen-bytes-xx"] {
            assert!(matches!(request(name, 1), Err(TapError::Name { .. })), "{name}");
        }
        assert!(request("fifteen-bytes-x", 1).is_ok());
    }

    #[test]
    fn the_number_of_queues_is_bounded() {
        for queues in [0, QUEUES_MAX + 1] {
            assert!(matches!(request("t", queues), Err(TapError::Queues { .. })), "{queues}");
        }
    }
}
