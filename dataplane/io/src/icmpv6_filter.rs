//! Which ICMPv6 messages a raw socket receives (RFC 3542, section 3.2).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// The socket option (include/uapi/linux/icmpv6.h).
const ICMPV6_FILTER: libc::c_int = 1;

/// Lets `socket`, a raw ICMPv6 one, receive messages of these types alone.
///
/// # Errors
/// The kernel's.
pub fn receive_only(socket: impl AsFd, types: &[u8]) -> io::Result<()> {
    // A set bit keeps messages of its type away.
    let mut filter = [u32::MAX; 8];
    for &kind in types {
        filter[usize::from(kind >> 5)] &= !(1 << (kind & 31));
    }
    // SAFETY: the pointer and the length are those of `filter`, whose layout is that of the
    // kernel's struct icmp6_filter; the kernel copies it before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMPV6_FILTER,
            filter.as_ptr().cast(),
            size_of::<[u32; 8]>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv6Addr, SocketAddrV6};
    use std::time::Duration;

    use socket2::{Domain, Protocol, Socket, Type};

    use super::*;

    #[test]
    fn messages_of_other_types_do_not_arrive() {
        const PASSED: u8 = 200;
        let open = || Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
        let (receiver, sender) = (open(), open());
        receive_only(&receiver, &[PASSED, 31]).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let loopback = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0).into();
        for kind in [PASSED - 1, PASSED + 1, PASSED] {
            sender.send_to(&[kind, 7, 0, 0, 1, 2, 3, 4], &loopback).unwrap();
        }
        // The loopback keeps the order.
        let mut message = [0; 64];
        assert_eq!((&receiver).read(&mut message).unwrap(), 8);
        assert_eq!(message[0], PASSED);
    }
}
