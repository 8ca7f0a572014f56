//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong with a configuration.
///
/// Displayed on one line: `FILE:LINE: KEY: found WHAT; REMEDY`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, as it was named to vipdp or in the node's file.
    pub file: PathBuf,
    /// The line, counted from 1; `None` when no line is to blame, as for a missing key.
    pub line: Option<usize>,
    /// The key with its tables, as in `timing.hold_s` or `member[2].name`; `None` for a whole file.
    pub key: Option<String>,
    /// What stands there.
    pub found: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": found {}; {}", self.found, self.remedy)
    }
}

/// Everything that is wrong with a configuration: at least one error, in the order of the files
/// (node, cluster, keys) and of their lines.
///
/// Displayed as one line per error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Wraps `errors`.
    ///
    /// # Panics
    /// If there are none: a rejected configuration must say why.
    pub(super) fn new(errors: Vec<ConfigError>) -> Self {
        assert!(!errors.is_empty(), "a configuration was rejected without a reason");
        Self(errors)
    }

    /// The errors.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
