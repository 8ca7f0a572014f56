//! The kernel's settings of one interface, in `/proc/sys/net` and `/sys/class/net`.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::HostError;

/// One setting of one interface. Only its place is kept, never a path: what a state file says can
/// at worst name another interface's setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(super) area: Area,
    pub(super) interface: String,
    pub(super) key: String,
}

/// Where a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Area {
    /// `/proc/sys/net/ipv4/conf/INTERFACE/`
    Ipv4,
    /// `/proc/sys/net/ipv6/conf/INTERFACE/`
    Ipv6,
    /// `/sys/class/net/INTERFACE/`
    Device,
}

impl Area {
    const fn directory(self) -> &'static str {
        match self {
            Self::Ipv4 => "/proc/sys/net/ipv4/conf",
            Self::Ipv6 => "/proc/sys/net/ipv6/conf",
            Self::Device => "/sys/class/net",
        }
    }
}

impl Setting {
    pub(crate) fn new(area: Area, interface: &str, key: &str) -> Self {
        Self { area, interface: interface.into(), key: key.into() }
    }

    fn path(&self) -> PathBuf {
        [self.area.directory(), &self.interface, &self.key].iter().collect()
    }

    /// Whether the names stay below the area's directory.
    pub(super) fn is_plain(&self) -> bool {
        let plain = |name: &str| !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        plain(&self.interface) && plain(&self.key)
    }

    /// The value, without the end of line.
    pub(crate) fn read(&self) -> io::Result<String> {
        Ok(fs::read_to_string(self.path())?.trim_end().to_owned())
    }

    /// Sets the value. The kernel takes it whole or refuses it.
    pub(crate) fn write(&self, value: &str) -> io::Result<()> {
        fs::write(self.path(), value)
    }

    /// The value that counts: for IPv4, the larger one of `all` and the interface.
    pub(super) fn read_effective(&self) -> io::Result<u32> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let own: u32 = self.read()?.parse().map_err(invalid)?;
        match self.area {
            Area::Ipv4 => {
                let all = Self { interface: "all".into(), ..self.clone() };
                Ok(own.max(all.read()?.parse().map_err(invalid)?))
            }
            Area::Ipv6 | Area::Device => Ok(own),
        }
    }
}

/// The names that have settings of IPv4: the interfaces, `all` and `default`. Sorted.
pub(super) fn interfaces() -> Result<Vec<String>, HostError> {
    let path = Area::Ipv4.directory();
    let names = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    };
    names().map_err(|source| HostError::Setting { setting: path.into(), source })
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.path().display(), f)
    }
}
