//! The programs under test, and those that test them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The built programs. Release builds: a cluster of four shares this machine's cores.
#[derive(Debug)]
pub struct Programs {
    /// `vipdp`.
    pub vipdp: PathBuf,
    /// `dns-load`.
    pub dns_load: PathBuf,
}

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in a workspace")
}

/// The programs: those in the directory that the environment names in `VIPDP_PROGRAMS`, else those
/// of this workspace, built when first asked for.
pub fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(find)
}

fn find() -> Programs {
    if let Some(directory) = std::env::var_os("VIPDP_PROGRAMS") {
        return Programs::of(Path::new(&directory));
    }
    let packages = ["--package", "vipdp", "--package", "vipdp-bench"];
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--locked", "--bins"])
        .args(packages)
        .current_dir(root())
        .status();
    assert!(built.expect("cargo runs").success(), "vipdp and dns-load do not build");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    Programs::of(&root().join(target).join("release"))
}

impl Programs {
    fn of(directory: &Path) -> Self {
        Self { vipdp: directory.join("vipdp"), dns_load: directory.join("dns-load") }
    }
}
