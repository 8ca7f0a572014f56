//! Compiles the XDP program with clang; `src/xdp.rs` embeds the object.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "bpf/vipdp.bpf.c";
/// All that the program is made of.
const DIRECTORY: &str = "bpf";

const REMEDY: &str = "building vipdp-io needs clang with the BPF target, and the headers of libbpf \
    and Linux; on Debian: apt-get install clang libbpf-dev linux-libc-dev. \
    The variable CLANG names another compiler";

fn main() {
    println!("cargo::rerun-if-changed={DIRECTORY}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(problem) = compile(&object.join("vipdp.bpf.o")) {
        println!("cargo::error={problem}");
        println!("cargo::error={REMEDY}");
    }
}

fn compile(object: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let mut command = Command::new(&clang);
    // -g: aya reads the maps' definitions from BTF, which clang derives from debug information.
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c", SOURCE]);
    if let Some(headers) = architecture_headers() {
        command.arg("-isystem").arg(headers);
    }
    let output = command
        .arg("-o")
        .arg(object)
        .output()
        .map_err(|error| format!("cannot run {clang}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    // One directive a line: cargo cuts a message at its first newline.
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo::warning={line}");
    }
    Err(format!("{clang} could not compile {SOURCE}: {}", output.status))
}

/// Where Debian keeps `asm/types.h`: the BPF target does not look into the host's directory.
fn architecture_headers() -> Option<PathBuf> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's cfg");
    let path = PathBuf::from(format!("/usr/include/{architecture}-linux-gnu"));
    path.is_dir().then_some(path)
}
