//! TAPs: the one through which accepted frames enter the host, and the one that stands in the place of a NIC
//! that the kernel does not have.
//!
//! ```text
//!   worker 0 -- TapQueue --+
//!   worker 1 -- TapQueue --+-- vipdp0 (the VIPs, or routes to them) -- the host's stack
//!   worker n -- TapQueue --+
//! ```
//!
//! The first belongs to the process: when the last queue is closed, by an orderly end or by SIGKILL, the
//! kernel removes the interface and with it the VIPs, its settings and the routes through it.
//! A write is a frame's way into the stack, done in the caller's context when `write` returns. In front
//! of each frame, either way, lies a [`vnet`] header: several packets of one flow can go as one, which
//! costs the stack little more than a single one.
//!
//! The second is the operator's ([`Tap::attach`]), with the node's own addresses, and stays. Its carrier is the
//! NIC's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use vipdp_core::port::{Host, PIECES_MAX, Refused, SuperPackets, Taken};
use vipdp_core::wire::vnet::{self, Offload};

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
    /// What should stand in the NIC's place does not.
    #[error(
        "interface {name}: {found}; with DPDK the host has a persistent TAP of that name in the NIC's place, \
         with the node's own addresses: `ip tuntap add dev {name} mode tap multi_queue vnet_hdr` makes it"
    )]
    NotInPlace {
        /// The interface.
        name: String,
        /// What is there.
        found: &'static str,
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

/// What the host may leave to us: checksums, and the cutting of TCP and of UDP (`TUN_F_*` in the
/// kernel's include/uapi/linux/if_tun.h). Linux knows UDP from 6.2 on.
const OFFLOAD_TCP: libc::c_uint = 0x01 | 0x02 | 0x04 | 0x08;
const OFFLOAD_UDP: libc::c_uint = 0x01 | 0x20 | 0x40;

/// Flags of a TAP that sysfs shows (`IFF_*` in the kernel's include/uapi/linux/if_tun.h).
const IFF_TAP: u32 = 0x0002;
const IFF_MULTI_QUEUE: u32 = 0x0100;
const IFF_PERSIST: u32 = 0x0800;

mod ioctl {
    nix::ioctl_write_ptr_bad!(
        /// Makes the file a queue of the interface that the request describes.
        tun_set_iff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(
        /// Says what the host may leave to us.
        tun_set_offload,
        nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>())
    );
    nix::ioctl_write_ptr_bad!(
        /// Says whether the TAP has a carrier.
        tun_set_carrier,
        nix::request_code_write!(b'T', 226, size_of::<libc::c_int>()),
        libc::c_int
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

    /// Whether `name` is a TAP that the operator has made in a NIC's place, and that
    /// [`attach`](Self::attach) may have.
    ///
    /// # Errors
    /// [`TapError::NotInPlace`].
    pub fn require(name: &str) -> Result<(), TapError> {
        let error = |found| Err(TapError::NotInPlace { name: name.into(), found });
        // Names that are none would lead elsewhere.
        request(name, 1)?;
        let directory = Path::new("/sys/class/net").join(name);
        let Ok(text) = fs::read_to_string(directory.join("tun_flags")) else {
            let is_there = directory.exists();
            return error(if is_there { "it is no TAP" } else { "there is none of that name" });
        };
        let flags = text.trim().trim_start_matches("0x");
        let flags = u32::from_str_radix(flags, 16).unwrap_or_default();
        match flags {
            _ if flags & IFF_TAP == 0 => error("it is a TUN and no TAP"),
            _ if flags & IFF_PERSIST == 0 => error("it is a TAP that another program has made"),
            _ if flags & IFF_MULTI_QUEUE == 0 => error("it is a TAP of a single queue"),
            _ => Ok(()),
        }
    }

    /// Attaches to the TAP of that name in the calling thread's network namespace, which stands in a NIC's place
    /// and outlives the process, and returns as many of its queues. It has a carrier from then on, as
    /// long as any queue is open and [`Carrier`] does not say otherwise. The host sends single packets by
    /// it, complete with their checksums.
    ///
    /// # Errors
    /// [`TapError::NotInPlace`], or without the privilege to attach.
    pub fn attach(name: &str, queues: usize) -> Result<Vec<TapQueue>, TapError> {
        Self::require(name)?;
        let mut request = request(name, queues)?;
        // SAFETY: `request` built the union from its `ifru_flags`.
        let flags = unsafe { request.ifr_ifru.ifru_flags } | libc::IFF_MULTI_QUEUE as libc::c_short;
        request.ifr_ifru.ifru_flags = flags;
        (0..queues).map(|_| TapQueue::attach(name, &request, false)).collect()
    }
}

/// Says whether a TAP has a carrier: one that stands in a NIC's place has one when the NIC has a link.
#[derive(Debug)]
pub struct Carrier(File);

impl Carrier {
    /// Sets or takes the carrier.
    ///
    /// # Errors
    /// When the TAP is gone.
    pub fn set(&self, on: bool) -> io::Result<()> {
        let on = libc::c_int::from(on);
        // SAFETY: the descriptor is open; the kernel reads the number and keeps no pointer.
        unsafe { ioctl::tun_set_carrier(self.0.as_raw_fd(), &raw const on) }?;
        Ok(())
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
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
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
    super_packets: SuperPackets,
}

impl TapQueue {
    fn attach(name: &str, request: &libc::ifreq, first: bool) -> Result<Self, TapError> {
        let create_error = |source| TapError::Create { name: name.into(), source };
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
            Ok(_) => {
                let mut queue =
                    Self { file: closed_early(file), super_packets: SuperPackets::NONE };
                queue.find_super_packets().map_err(create_error)?;
                Ok(queue)
            }
            Err(Errno::EBUSY | Errno::EEXIST) if first => {
                Err(TapError::Exists { name: name.into() })
            }
            Err(errno) => Err(create_error(errno.into())),
        }
    }

    /// Finds out which super-packets this kernel takes: those that it would also give.
    fn find_super_packets(&mut self) -> io::Result<()> {
        let tcp = self.set_offload(OFFLOAD_TCP).is_ok();
        let udp = self.set_offload(OFFLOAD_UDP).is_ok();
        self.set_offload(0)?;
        self.super_packets = SuperPackets { tcp, udp };
        Ok(())
    }

    /// Lets the host send super-packets, of those kinds that the kernel knows, and leave checksums to
    /// us. It holds for all queues of the TAP.
    ///
    /// # Errors
    /// When the TAP is gone.
    pub fn ask_for_super_packets(&self) -> io::Result<()> {
        self.set_offload(OFFLOAD_TCP | OFFLOAD_UDP).or_else(|_| self.set_offload(OFFLOAD_TCP))
    }

    /// The means to set the TAP's carrier. It keeps this queue attached.
    ///
    /// # Errors
    /// When the process may have no further descriptor.
    pub fn carrier(&self) -> io::Result<Carrier> {
        self.file.try_clone().map(Carrier)
    }

    /// Takes no super-packets from now on: each packet comes as a frame of its own.
    pub fn refuse_super_packets(&mut self) {
        self.super_packets = SuperPackets::NONE;
    }

    fn set_offload(&self, offload: libc::c_uint) -> io::Result<()> {
        // SAFETY: the descriptor is open; the request takes a number and no pointer.
        unsafe { ioctl::tun_set_offload(self.file.as_raw_fd(), offload as libc::c_int) }?;
        Ok(())
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
    #[inline]
    fn deliver(&mut self, offload: Offload, pieces: &[&[u8]]) -> Result<(), Refused> {
        assert!(pieces.len() <= PIECES_MAX, "{} pieces of a frame", pieces.len());
        let header = offload.header();
        let written = match pieces {
            [frame] => self.file.write_vectored(&[IoSlice::new(&header), IoSlice::new(frame)]),
            _ => {
                let mut slices = [IoSlice::new(&header); 1 + PIECES_MAX];
                for (slice, piece) in slices[1..].iter_mut().zip(pieces) {
                    *slice = IoSlice::new(piece);
                }
                self.file.write_vectored(&slices[..1 + pieces.len()])
            }
        };
        match written {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EINVAL | Errno::EMSGSIZE) => Err(Refused::TooLong),
                _ => Err(Refused::Full),
            },
        }
    }

    fn take(&mut self, buffer: &mut [u8]) -> Option<Taken> {
        let mut header = [0; vnet::HEADER_LEN];
        loop {
            let slices = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
            let read = self.file.read_vectored(slices).ok()?;
            let len = read.checked_sub(vnet::HEADER_LEN).filter(|&len| len > 0)?;
            // The kernel says nothing there that it was not asked to say.
            if let Ok(offload) = Offload::of_header(&header) {
                return Some(Taken { len, offload });
            }
        }
    }

    fn super_packets(&self) -> SuperPackets {
        self.super_packets
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
