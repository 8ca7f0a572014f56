//! Frames put on a wire as they are.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};

use crate::frame::Mac;
use crate::namespace::Namespace;

/// Puts frames on a wire (packet(7)).
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
    mac: Mac,
}

impl Injector {
    /// Opens the way out of `interface`.
    #[track_caller]
    pub fn open(namespace: &Namespace, interface: &str) -> Self {
        namespace.within(|| {
            // A link-layer address names the interface, so it is all that bind needs.
            let address = getifaddrs()
                .expect("interfaces can be listed")
                .filter(|entry| entry.interface_name == interface)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .unwrap_or_else(|| panic!("no interface {interface} in {}", namespace.name()));
            // Of no protocol: it sends, and receives nothing.
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)
                .expect("root may open a packet socket");
            bind(socket.as_raw_fd(), &address).expect("the interface is there");
            Self { socket, mac: Mac(address.addr().expect("Ethernet")) }
        })
    }

    /// The interface's own MAC address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel's, when the frame is larger than the interface's MTU allows.
    pub fn try_send(&self, frame: &[u8]) -> Result<(), Errno> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).map(drop)
    }

    /// Sends a frame.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        self.try_send(frame).expect("the kernel takes the frame");
    }
}
