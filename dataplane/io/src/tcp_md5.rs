//! The TCP MD5 signature option (RFC 2385), as BGP sessions with a password want it.
//!
//! The kernel signs what the socket sends to the peer, and drops what comes from there unsigned or
//! signed with another key, without a word: with wrong keys nothing connects. On a listening
//! socket the keys of all peers stand side by side; a connection inherits its peer's.

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

/// The longest key, in bytes (`TCP_MD5SIG_MAXKEYLEN`, include/uapi/linux/tcp.h).
pub const KEY_LEN_MAX: usize = 80;

/// Size of a `struct sockaddr_storage`.
const ADDRESS_LEN: usize = size_of::<libc::sockaddr_storage>();

/// `struct tcp_md5sig` (include/uapi/linux/tcp.h).
#[repr(C)]
struct TcpMd5Sig {
    /// A `struct sockaddr_in` or `sockaddr_in6`, and zeros.
    address: [u8; ADDRESS_LEN],
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: libc::c_int,
    key: [u8; KEY_LEN_MAX],
}

/// Signs all segments between `socket` and `peer` with `key`; an empty key takes the signature
/// away. To be set before the socket connects or listens; on a listening socket also later.
///
/// # Errors
/// `InvalidInput` for a key of more than [`KEY_LEN_MAX`] bytes, else the kernel's error: `ENOPROTOOPT`
/// where it is built without `CONFIG_TCP_MD5SIG`, `ENOENT` when a key is taken away that is not
/// there.
pub fn set_key(socket: impl AsFd, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    let mut padded = [0; KEY_LEN_MAX];
    let Some(to) = padded.get_mut(..key.len()) else {
        let text = format!("a TCP MD5 key of {} bytes: at most {KEY_LEN_MAX}", key.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    to.copy_from_slice(key);
    let option = TcpMd5Sig {
        address: socket_address(peer),
        flags: 0,
        prefix_len: 0,
        key_len: key.len() as u16,
        interface: 0,
        key: padded,
    };
    // SAFETY: the pointer and the length are those of `option`, whose layout is the kernel's; the
    // kernel copies it before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            (&raw const option).cast(),
            size_of::<TcpMd5Sig>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The socket address of `peer` with no port, which the kernel does not look at.
fn socket_address(peer: IpAddr) -> [u8; ADDRESS_LEN] {
    let mut bytes = [0; ADDRESS_LEN];
    match peer {
        IpAddr::V4(peer) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&peer.octets());
        }
        IpAddr::V6(peer) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[8..24].copy_from_slice(&peer.octets());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
    use std::time::Duration;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// Long enough for a handshake over the loopback, and for the kernel not to have made one.
    const SHORT: Duration = Duration::from_millis(300);

    /// What `loopback` says when a socket with `ours` connects to one with `theirs`.
    fn connect(loopback: IpAddr, ours: &[u8], theirs: &[u8]) -> io::Result<[u8; 2]> {
        let domain = Domain::for_address(SocketAddr::new(loopback, 0));
        let listener = Socket::new(domain, Type::STREAM, None)?;
        listener.bind(&SocketAddr::new(loopback, 0).into())?;
        set_key(&listener, loopback, theirs)?;
        listener.listen(1)?;
        let to = listener.local_addr()?;
        let socket = Socket::new(domain, Type::STREAM, None)?;
        set_key(&socket, loopback, ours)?;
        socket.connect_timeout(&to, SHORT)?;
        let (mut accepted, _) = TcpListener::from(listener).accept()?;
        accepted.write_all(b"ok")?;
        let mut word = [0; 2];
        (&socket).read_exact(&mut word)?;
        Ok(word)
    }

    #[test]
    fn only_sockets_with_the_same_key_connect() {
        for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            assert_eq!(&connect(loopback, b"secret", b"secret").unwrap(), b"ok");
            let longest = [b'k'; KEY_LEN_MAX];
            assert_eq!(&connect(loopback, &longest, &longest).unwrap(), b"ok");
            let error = connect(loopback, b"secret", b"other").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[test]
    fn a_key_that_is_too_long_is_refused() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let error = set_key(&socket, Ipv4Addr::LOCALHOST.into(), &[1; 81]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
