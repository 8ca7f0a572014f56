//! The programs under test, and those that test them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The built programs: with debug assertions, and optimised enough for a cluster that shares this machine's cores.
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

/// The `vipdp` that has DPDK built in: that in the directory of `VIPDP_PROGRAMS`, else that of this
/// workspace, built when first asked for.
pub fn with_dpdk() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(directory) = std::env::var_os("VIPDP_PROGRAMS") {
            return Path::new(&directory).join("vipdp");
        }
        let target = target().join("dpdk");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--workspace", "--quiet", "--locked", "--bin", "vipdp"])
            .args(["--features", "vipdp/dpdk", "--target-dir"])
            .arg(&target)
            .current_dir(root())
            .status();
        assert!(built.expect("cargo runs").success(), "vipdp with DPDK does not build");
        target.join("debug/vipdp")
    })
}

/// The `vipdp` that a node's configuration wants.
#[track_caller]
pub fn vipdp_for(config: &Path) -> &'static Path {
    let text = std::fs::read_to_string(config);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", config.display()));
    if text.contains("backend = \"dpdk\"") { with_dpdk() } else { &programs().vipdp }
}

/// Where cargo builds.
fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target)
}

fn find() -> Programs {
    if let Some(directory) = std::env::var_os("VIPDP_PROGRAMS") {
        return Programs::of(Path::new(&directory));
    }
    // As part of the workspace: this choice of features is what `cargo test --workspace` has built.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--workspace", "--quiet", "--locked", "--bin=vipdp", "--bin=dns-load"])
        .current_dir(root())
        .status();
    assert!(built.expect("cargo runs").success(), "vipdp and dns-load do not build");
    Programs::of(&target().join("debug"))
}

impl Programs {
    fn of(directory: &Path) -> Self {
        Self { vipdp: directory.join("vipdp"), dns_load: directory.join("dns-load") }
    }
}
