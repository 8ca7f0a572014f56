//! `[io]`: by what workers have the NIC.

use super::error::ConfigError;
use super::node::EgressMode;
use super::reader::{Errors, Field, Located, Place, Section};

/// By what workers have the NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoConfig {
    /// By AF_XDP sockets: the kernel keeps the NIC, and whatever is not vipdp's.
    AfXdp,
    /// By DPDK: vipdp has the whole NIC, and the kernel a TAP of the same name in its place.
    Dpdk(DpdkConfig),
}

impl IoConfig {
    /// The backend's name in the configuration and in the status.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::AfXdp => "af_xdp",
            Self::Dpdk(_) => "dpdk",
        }
    }
}

/// How DPDK has the NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkConfig {
    /// The device, as DPDK's `--allow` or `--vdev` names it: a PCI address, or a virtual device and its
    /// arguments.
    pub devargs: String,
    /// Receive queues, and workers; `None`: one for each core that workers may use, as far as the NIC has so
    /// many.
    pub queues: Option<u32>,
    /// Whether its memory is huge pages.
    pub hugepages: bool,
}

/// What was read, for what other keys say of it.
pub(super) struct IoRead<'s> {
    pub(super) config: IoConfig,
    /// `backend = "dpdk"`, if it is.
    dpdk: Option<Place<'s>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    AfXdp,
    Dpdk,
}

/// The most receive queues: DPDK lets 128 threads in.
const QUEUES_MAX: u64 = 64;
/// The most bytes of a device's arguments, by far.
const DEVARGS_MAX: usize = 1024;

/// Reads `[io]`.
pub(super) fn read<'s>(section: &mut Section<'s>, errors: &mut Errors) -> IoRead<'s> {
    let none = IoRead { config: IoConfig::AfXdp, dpdk: None };
    let Some(mut io) = section.table("io", errors) else { return none };
    let backend = io.optional("backend", errors, |f| {
        f.choice(&[("af_xdp", Backend::AfXdp), ("dpdk", Backend::Dpdk)])
    });
    let read = match backend {
        Some(Located { value: Backend::Dpdk, place }) => {
            let devargs = io.required("devargs", "devargs = \"0000:03:00.0\"", errors, devargs);
            let queues =
                io.optional("queues", errors, |f| f.integer(1..=QUEUES_MAX, "a number of queues"));
            let hugepages = io.or_default("hugepages", true, errors, |f| f.boolean());
            IoRead {
                config: IoConfig::Dpdk(DpdkConfig {
                    devargs: devargs.map(|devargs| devargs.value).unwrap_or_default(),
                    queues: queues.map(|queues| queues.value as u32),
                    hugepages,
                }),
                dpdk: Some(place),
            }
        }
        _ => {
            for key in ["devargs", "queues", "hugepages"] {
                if let Some(field) = io.take(key) {
                    let why = " without backend = \"dpdk\" beside it";
                    errors.push(field.place.error(why, "remove it, or give backend = \"dpdk\""));
                }
            }
            none
        }
    };
    io.finish(errors);
    read
}

fn devargs(field: &Field<'_>) -> Result<String, ConfigError> {
    let expected = "a device as DPDK names it: a PCI address, for example \"0000:03:00.0\", or a virtual \
                    device, for example \"net_af_packet0,iface=eth1\"";
    let text = field.text(expected)?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > DEVARGS_MAX || !is_plain || text.starts_with('-') {
        return Err(field.place.error("", format!("give {expected}")));
    }
    Ok(text.to_owned())
}

impl<'s> IoRead<'s> {
    /// What `egress` is where it is not given: with DPDK the workers are the only way out.
    pub(super) fn egress_default(&self) -> EgressMode {
        if self.dpdk.is_some() { EgressMode::Tap } else { EgressMode::Direct }
    }

    /// With DPDK, `egress` cannot be direct.
    pub(super) fn check_egress(
        &self,
        egress: Option<&Located<'s, EgressMode>>,
        errors: &mut Errors,
    ) {
        if let (Some(_), Some(Located { value: EgressMode::Direct, place })) = (&self.dpdk, egress)
        {
            let why =
                " beside backend = \"dpdk\": the kernel has no NIC that answers could leave by";
            errors.push(place.error(why, "remove it, or give egress = \"tap\""));
        }
    }

    /// With DPDK there is no XDP program, and a key that is about one is wrong.
    pub(super) fn check_of_xdp<T>(&self, read: Option<&Located<'s, T>>, errors: &mut Errors) {
        if let (Some(_), Some(read)) = (&self.dpdk, read) {
            let why =
                " beside backend = \"dpdk\": there is no XDP program, since the kernel has no NIC";
            errors.push(read.place.error(why, "remove it"));
        }
    }
}
