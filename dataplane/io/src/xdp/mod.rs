//! The XDP program on an interface: which frames go to the AF_XDP sockets.
//!
//! The program itself is `bpf/vipdp.bpf.c`; `build.rs` compiles it and this module embeds the
//! object. Packets to a VIP, and ARP and neighbour discovery about a VIP or a next hop, go to the
//! socket that is bound to their receive queue; all else goes to the kernel. While no socket is
//! bound, such packets are dropped: the host may have the VIPs already, or still, and would reset
//! connections that another node has. ARP and neighbour discovery then go to the kernel. With the
//! [`Offload`] on, the program drops and passes some of the packets by itself.
//!
//! The program hangs on the interface by a **bpf_link** whose only descriptor is this process's:
//! dropping [`Program`] detaches it, and so does the kernel when the process dies, be it by
//! SIGKILL. Nothing is ever left behind on the interface.
//!
//! ```text
//!  Program::attach      load, put the addresses in, link to the interface
//!  Program::rx_queues   only now: attaching may have changed their number
//!  AfXdpPort::open      per queue
//!  Program::bind        per queue: from here on the queue's frames arrive
//!  drop                 after the host has the VIPs no more
//! ```

mod addresses;
#[cfg(test)]
mod classify_tests;
mod offload;
#[cfg(test)]
mod offload_tests;
mod queues;

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use aya::maps::{Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfError, include_bytes_aligned};
use nix::net::if_::if_nametoindex;
use thiserror::Error;
use vipdp_core::prefix::Prefix;

use crate::af_xdp::AfXdpPort;
use crate::ending::wait_for_the_dead;
use addresses::{NextHopsMap, TunnelsMap, Vips};
use offload::Table;

pub use addresses::{NextHops, TunnelEnd, VIPS_MAX};
pub use offload::{Offload, OffloadFacts};
pub use queues::rx_queues;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vipdp.bpf.o"));

/// Indices into the program's map `frames`.
const REDIRECTED: u32 = 0;
const PASSED: u32 = 1;
const DROPPED: u32 = 2;
const OFFLOAD_DROPPED: u32 = 3;
const OFFLOAD_PASSED: u32 = 4;
#[cfg(test)]
const COUNTERS: u32 = 5;

/// Where in the kernel the program is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver if it can, else as [`Generic`](Self::Generic).
    #[default]
    Auto,
    /// In the driver, before the kernel makes a socket buffer of the frame.
    Native,
    /// In the stack, after that: slower, but on every interface. Sockets on such an interface are
    /// to be opened with [`ZeroCopy::Off`](crate::af_xdp::ZeroCopy::Off).
    Generic,
}

/// What the program counted, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames sent to a socket. The socket may still have lost them: see
    /// [`Statistics`](crate::af_xdp::Statistics).
    pub redirected: u64,
    /// Frames left to the kernel: those of no VIP, no next hop and no tunnel, and questions about one
    /// on queues without a socket.
    pub passed: u64,
    /// Packets to a VIP, and tunnels, on queues without a socket.
    pub dropped: u64,
    /// Packets to a VIP that the [`Offload`] dropped: they are another node's.
    pub offload_dropped: u64,
    /// Packets to a VIP that the [`Offload`] handed to the kernel.
    pub offload_passed: u64,
}

impl Counters {
    /// All frames that the program ran on.
    pub fn all(&self) -> u64 {
        let Self { redirected, passed, dropped, offload_dropped, offload_passed } = self;
        redirected + passed + dropped + offload_dropped + offload_passed
    }
}

/// Why the program could not be attached or changed. The interface is as it was before, apart
/// from [`Map`](Self::Map).
#[derive(Debug, Error)]
pub enum XdpError {
    /// No interface has this name in the network namespace of the thread.
    #[error("no interface is called {0}")]
    NoSuchInterface(String),
    /// Some other XDP program is on the interface.
    #[error(
        "another XDP program is attached to {interface}: find it with `bpftool net show dev \
         {interface}`, then stop the service it belongs to, or detach it with `ip link set dev \
         {interface} xdp off` (or `xdpgeneric off`)"
    )]
    AlreadyAttached {
        /// The interface.
        interface: String,
    },
    /// The kernel does not take the embedded object.
    #[error(
        "the kernel refuses the XDP program; it needs Linux 5.11 or newer and CAP_BPF, CAP_NET_ADMIN"
    )]
    Load(#[source] Box<EbpfError>),
    /// The verifier does not take the program.
    #[error(
        "the kernel refuses the XDP program; it needs Linux 5.11 or newer and CAP_BPF, CAP_NET_ADMIN"
    )]
    Verify(#[source] Box<ProgramError>),
    /// The driver, or the stack, does not take the program.
    #[error(
        "cannot attach the XDP program to {interface} in {mode:?} mode; a native program needs a \
         driver with XDP, large receive offload off, and an MTU that leaves a frame in one page"
    )]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that was tried last.
        mode: AttachMode,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The kernel attached the program without a bpf_link; it was detached again.
    #[error("the kernel gives no bpf_link for {interface}: it needs Linux 5.11 or newer")]
    NoLink {
        /// The interface.
        interface: String,
    },
    /// More VIPs of one family than the program has room for.
    #[error("{count} VIPs of one family, while the XDP program has room for {VIPS_MAX}")]
    TooManyVips {
        /// How many there are of the family.
        count: usize,
    },
    /// Next hops beyond what the program compares.
    #[error(
        "{count} next hops from {first} on: the last one would be beyond the addresses of its \
         family, or, of IPv6, in another /64"
    )]
    NextHops {
        /// The first next hop.
        first: IpAddr,
        /// How many there are.
        count: u16,
    },
    /// The offload's table cannot be mapped into this process.
    #[error("the XDP program's table of buckets cannot be mapped into memory")]
    Table(#[source] io::Error),
    /// A map of the program could not be read or written.
    #[error("the XDP program's map {map}")]
    Map {
        /// The map's name in `bpf/vipdp.bpf.c`.
        map: &'static str,
        /// What went wrong.
        source: MapError,
    },
}

/// The XDP program, attached to an interface for as long as this value lives.
pub struct Program {
    /// The attachment: closing it detaches. None where the kernel did not attach again.
    link: Option<FdLink>,
    interface: String,
    index: u32,
    mode: AttachMode,
    /// The program itself, and the maps that nobody took.
    ebpf: Ebpf,
    sockets: XskMap<MapData>,
    vips: Vips,
    next_hops: NextHopsMap,
    tunnels: TunnelsMap,
    /// None once somebody has taken it.
    offload: Option<Offload>,
    frames: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("mode", &self.mode)
            .field("vips", self.vips.now())
            .finish_non_exhaustive()
    }
}

impl Program {
    /// Attaches the program to `interface`, with `vips` as service addresses and `next_hops` as the
    /// addresses that they are reached by, if any. From now on the kernel gets no packet to a VIP
    /// any more; vipdp does when a socket is [bound](Self::bind).
    ///
    /// # Errors
    /// See [`XdpError`]; above all when another XDP program is there and stays, which is never
    /// replaced.
    pub fn attach(
        interface: &str,
        mode: AttachMode,
        vips: &[Prefix],
        next_hops: &NextHops,
    ) -> Result<Self, XdpError> {
        let index = if_nametoindex(interface)
            .map_err(|_| XdpError::NoSuchInterface(interface.to_owned()))?;
        let mut ebpf = load()?;
        let sockets = typed("xsks", take(&mut ebpf, "xsks"))?;
        let frames = typed("frames", take(&mut ebpf, "frames"))?;
        let mut service = take_vips(&mut ebpf)?;
        service.set(vips)?;
        let mut hops = NextHopsMap(typed("next_hops", take(&mut ebpf, "next_hops"))?);
        hops.set(next_hops)?;
        let tunnels = TunnelsMap(typed("tunnels", take(&mut ebpf, "tunnels"))?);
        let offload = Some(take_offload(&mut ebpf)?);
        let xdp = verified(&mut ebpf)?;
        let is_held = |error: &XdpError| matches!(error, XdpError::AlreadyAttached { .. });
        let (link, mode) = wait_for_the_dead(|| link(xdp, interface, index, mode), is_held)?;
        Ok(Self {
            link: Some(link),
            interface: interface.to_owned(),
            index,
            mode,
            ebpf,
            sockets,
            vips: service,
            next_hops: hops,
            tunnels,
            offload,
            frames,
        })
    }

    /// Attaches the program anew, in the mode that it was attached in: for drivers that forget it while the kernel
    /// takes it for attached. Drivers start their queues anew for that, so the link goes down and comes back.
    ///
    /// # Errors
    /// See [`XdpError`]; it is not attached then.
    pub fn attach_again(&mut self) -> Result<(), XdpError> {
        drop(self.link.take());
        let (link, _) = link(program(&mut self.ebpf), &self.interface, self.index, self.mode)?;
        self.link = Some(link);
        Ok(())
    }

    /// [`Native`](AttachMode::Native) or [`Generic`](AttachMode::Generic): where the program runs.
    pub fn attach_mode(&self) -> AttachMode {
        self.mode
    }

    /// By how many receive queues frames come to the program now. Drivers change the number when a program is attached
    /// (virtio-net), people do (`ethtool -L`), and so does a NIC that is added to a bond.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn rx_queues(&self) -> io::Result<u32> {
        match self.mode {
            AttachMode::Generic => queues::rx_queues_in_use(&self.interface),
            AttachMode::Native | AttachMode::Auto => rx_queues(&self.interface),
        }
    }

    /// Sends VIP frames of receive queue `queue` to `port`, which must be open on that queue of
    /// this interface: the kernel drops them otherwise. When the port is dropped the program drops
    /// them again.
    ///
    /// # Errors
    /// [`XdpError::Map`] when the queue's number is above what the program has room for.
    pub fn bind(&mut self, queue: u32, port: &AfXdpPort) -> Result<(), XdpError> {
        in_map("xsks", self.sockets.set(queue, port.as_fd(), 0))
    }

    /// Makes `vips` the service addresses. A prefix that is in the old set and in the new one is
    /// so all the time.
    ///
    /// # Errors
    /// [`XdpError::TooManyVips`], with nothing changed. [`XdpError::Map`] when the kernel refuses a
    /// change; the set is then partly the old one, and the call can be repeated.
    pub fn set_vips(&mut self, vips: &[Prefix]) -> Result<(), XdpError> {
        self.vips.set(vips)
    }

    /// Makes `next_hops` the addresses that the VIPs are reached by.
    ///
    /// To change their count, as when a member is added, takes effect at once; to change the first
    /// ones takes it piece by piece, and a question that comes in that moment may be lost.
    ///
    /// # Errors
    /// [`XdpError::NextHops`], with nothing changed; [`XdpError::Map`].
    pub fn set_next_hops(&mut self, next_hops: &NextHops) -> Result<(), XdpError> {
        self.next_hops.set(next_hops)
    }

    /// Sends the tunnels of other members that come to `end` to the ports too, in place of those that
    /// came to an earlier one. A program that was just attached leaves them all to the kernel.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn set_tunnel_end(&mut self, end: &TunnelEnd) -> Result<(), XdpError> {
        self.tunnels.set(end)
    }

    /// What the program counted since it was attached.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn counters(&self) -> Result<Counters, XdpError> {
        let sum = |index: u32| -> Result<u64, XdpError> {
            Ok(in_map("frames", self.frames.get(&index, 0))?.iter().sum())
        };
        Ok(Counters {
            redirected: sum(REDIRECTED)?,
            passed: sum(PASSED)?,
            dropped: sum(DROPPED)?,
            offload_dropped: sum(OFFLOAD_DROPPED)?,
            offload_passed: sum(OFFLOAD_PASSED)?,
        })
    }

    /// The program's offload, for whoever is to tell it who has which bucket. It can be taken once;
    /// as long as nobody switches it on, the program decides nothing by itself.
    pub fn take_offload(&mut self) -> Option<Offload> {
        self.offload.take()
    }
}

fn load() -> Result<Ebpf, XdpError> {
    Ebpf::load(OBJECT).map_err(|error| XdpError::Load(Box::new(error)))
}

/// Has the kernel check the program.
fn verified(ebpf: &mut Ebpf) -> Result<&mut Xdp, XdpError> {
    let xdp = program(ebpf);
    xdp.load().map_err(|error| XdpError::Verify(Box::new(error)))?;
    Ok(xdp)
}

fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut("vipdp").expect("the object has the program");
    program.try_into().expect("it is an XDP program")
}

fn take_vips(ebpf: &mut Ebpf) -> Result<Vips, XdpError> {
    Ok(Vips::new(
        typed("vips_v4", take(ebpf, "vips_v4"))?,
        typed("vips_v6", take(ebpf, "vips_v6"))?,
        typed("hosts", take(ebpf, ".data.hosts"))?,
    ))
}

fn take_offload(ebpf: &mut Ebpf) -> Result<Offload, XdpError> {
    let Map::Array(table) = take(ebpf, "table") else { panic!("the map `table` is an array") };
    Ok(Offload {
        facts: typed("offload", take(ebpf, ".data.offload"))?,
        table: Table::map(table).map_err(XdpError::Table)?,
        sticky: typed("sticky", take(ebpf, "sticky"))?,
    })
}

fn in_map<T>(map: &'static str, result: Result<T, MapError>) -> Result<T, XdpError> {
    result.map_err(|source| XdpError::Map { map, source })
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Map {
    ebpf.take_map(name).expect("the embedded object has its maps")
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: &'static str, found: Map) -> Result<T, XdpError> {
    in_map(map, T::try_from(found))
}

/// Links the loaded program to the interface, in the first of the modes that works.
fn link(
    xdp: &mut Xdp,
    interface: &str,
    index: u32,
    mode: AttachMode,
) -> Result<(FdLink, AttachMode), XdpError> {
    let modes: &[AttachMode] = match mode {
        AttachMode::Auto => &[AttachMode::Native, AttachMode::Generic],
        AttachMode::Native => &[AttachMode::Native],
        AttachMode::Generic => &[AttachMode::Generic],
    };
    let mut refused = None;
    for &mode in modes {
        let kernel_mode = match mode {
            AttachMode::Generic => XdpMode::Skb,
            AttachMode::Auto | AttachMode::Native => XdpMode::Driver,
        };
        match xdp.attach_to_if_index(index, kernel_mode) {
            Ok(id) => {
                let link = xdp.take_link(id).map_err(|error| XdpError::Verify(Box::new(error)))?;
                // Where the kernel knows no bpf_link for XDP, aya attaches by netlink, which
                // would outlive this process. Failing to convert drops, thus detaches, the link.
                let link = FdLink::try_from(link)
                    .map_err(|_| XdpError::NoLink { interface: interface.to_owned() })?;
                return Ok((link, mode));
            }
            Err(error) if is_taken(&error) => {
                return Err(XdpError::AlreadyAttached { interface: interface.to_owned() });
            }
            Err(source) => {
                tracing::warn!(interface, ?mode, error = %chain(&source), "no XDP in this mode");
                let interface = interface.to_owned();
                refused = Some(XdpError::Attach { interface, mode, source: Box::new(source) });
            }
        }
    }
    Err(refused.expect("at least one mode was tried"))
}

/// Whether the kernel refuses because a program is there: EBUSY in the same mode, EEXIST in the
/// other (`dev_xdp_attach` in `net/core/dev.c`).
fn is_taken(error: &ProgramError) -> bool {
    let mut cause = Some(error as &dyn std::error::Error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST));
        }
        cause = error.source();
    }
    false
}

/// The error and its causes, in one line.
fn chain(error: &ProgramError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
