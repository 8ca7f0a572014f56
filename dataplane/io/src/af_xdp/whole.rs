//! Super-packets, handed to the NIC's driver whole: it cuts them itself, or the kernel does so on its
//! doorstep, after all that costs time once for a packet.
//!
//! A descriptor of an AF_XDP ring cannot say that its frame is to be cut. A packet socket with a
//! vnet header can (`PACKET_VNET_HDR` in packet(7)).

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::SndBufForce;
use nix::sys::socket::{MsgFlags, sendmsg, setsockopt};
use vipdp_core::port::TxWhole;
use vipdp_core::wire::vnet::Offload;

use crate::packet_socket;

/// Bytes that wait for the NIC at most: 16 MiB, some ten milliseconds at 10 Gbit/s, or 200
/// super-packets. Then the worker drops, as the NIC's queue does before.
const WAITING_MAX: usize = 16 << 20;

/// A packet socket that sends super-packets and receives nothing.
#[derive(Debug)]
pub(super) struct WholeSender {
    socket: OwnedFd,
}

impl WholeSender {
    /// A socket on the interface of this number.
    pub(super) fn open(index: u32) -> io::Result<Self> {
        let socket = packet_socket::sender(index)?;
        carry_vnet_header(&socket)?;
        setsockopt(&socket, SndBufForce, &WAITING_MAX)?;
        Ok(Self { socket })
    }

    /// Hands over one super-packet. One system call.
    pub(super) fn send(&self, offload: Offload, frame: &[u8]) -> TxWhole {
        let header = offload.header();
        let pieces = [IoSlice::new(&header), IoSlice::new(frame)];
        let fd = self.socket.as_raw_fd();
        match sendmsg::<()>(fd, &pieces, &[], MsgFlags::MSG_DONTWAIT, None) {
            Ok(_) => TxWhole::Sent,
            // It does not like this one's headers: the reason is ours to find by cutting.
            Err(Errno::EINVAL | Errno::EMSGSIZE) => TxWhole::Unable,
            Err(_) => TxWhole::Full,
        }
    }
}

/// Has each frame start with a vnet header.
fn carry_vnet_header(socket: &OwnedFd) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of `yes`, which the kernel reads during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
