//! Compiles pktgen's BPF programs with clang; `src/pktgen/live.rs` embeds the object.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "bpf/pktgen.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's cfg");
    let mut command = Command::new(&clang);
    // -g: aya reads the maps' definitions from BTF, which clang derives from debug information.
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c", SOURCE]);
    // Where Debian keeps asm/types.h, in which the BPF target does not look.
    command.arg("-isystem").arg(format!("/usr/include/{architecture}-linux-gnu"));
    command.arg("-o").arg(object.join("pktgen.bpf.o"));
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => println!("cargo::error={clang} could not compile {SOURCE}: {status}"),
        Err(error) => println!("cargo::error=cannot run {clang}: {error}; see scripts/setup"),
    }
}
