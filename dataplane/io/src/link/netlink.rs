//! Requests to the kernel's routing netlink, one at a time and synchronous.
//!
//! Only set-up, tear-down and the refresh of next hops talk netlink: nothing here is on the path
//! of a packet. The socket asks for strict checking, so that the kernel filters dumps by
//! interface and table before it sends them.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// How often a dump is asked for again when the table changed under it.
const DUMP_ATTEMPTS: usize = 4;

/// A request that the kernel refused or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{request}: {source}")]
pub struct NetlinkError {
    /// What was asked, in words.
    pub request: String,
    /// The kernel's error.
    pub source: io::Error,
}

impl NetlinkError {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// A socket to the routing netlink of the network namespace that it was opened in.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let opened = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Kernels before 4.20 do not know it, and then send more than what was asked for: the
            // readers filter as well.
            let _ = socket.set_netlink_get_strict_chk(true);
            Ok(socket)
        };
        let socket = opened()
            .map_err(|source| NetlinkError { request: "open a netlink socket".into(), source })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes the kernel change something, and waits until it has.
    ///
    /// `flags` are the `NLM_F_*` beyond request and acknowledgement.
    pub(crate) fn change(
        &mut self,
        request: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(message, flags | NLM_F_ACK)
            .map(drop)
            .map_err(|source| NetlinkError { request: request.into(), source })
    }

    /// Asks for one object.
    pub(crate) fn get(
        &mut self,
        request: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, NLM_F_ACK)
            .map(|answer| answer.messages)
            .map_err(|source| NetlinkError { request: request.into(), source })
    }

    /// Asks for a whole table.
    pub(crate) fn dump(
        &mut self,
        request: &str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let answer = self
                .exchange(message.clone(), NLM_F_DUMP)
                .map_err(|source| NetlinkError { request: request.into(), source })?;
            if !answer.interrupted {
                return Ok(answer.messages);
            }
        }
        let source = io::Error::other("the table changed during each of several dumps");
        Err(NetlinkError { request: request.into(), source })
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answer = Answer::default();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if answer.take(&datagram, self.sequence)? {
                return Ok(answer);
            }
        }
    }
}

/// What came back for one request.
#[derive(Default)]
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

impl Answer {
    /// Adds a datagram's messages; true when it was the last one.
    fn take(&mut self, datagram: &[u8], sequence: u32) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let buffer = NetlinkBuffer::new_checked(&rest).map_err(invalid)?;
            let length = buffer.length() as usize;
            if buffer.sequence_number() == sequence {
                self.interrupted |= buffer.flags() & NLM_F_DUMP_INTR != 0;
                match NetlinkMessage::deserialize(rest).map(|message| message.payload) {
                    Ok(NetlinkPayload::Done(done)) if done.code != 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.abs()));
                    }
                    Ok(NetlinkPayload::Done(_)) => return Ok(true),
                    Ok(NetlinkPayload::Error(error)) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    Ok(NetlinkPayload::Error(_)) => return Ok(true),
                    Ok(NetlinkPayload::InnerMessage(message)) => self.messages.push(message),
                    Ok(_) => {}
                    // One route of a kind that the decoder does not know must not hide the others.
                    Err(error) => tracing::debug!(%error, "netlink message not understood"),
                }
            }
            // Messages are aligned to four bytes, the last one not necessarily.
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(false)
    }
}
