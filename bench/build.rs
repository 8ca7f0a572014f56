//! Compiles the BPF programs of `bpf/` with clang, for `src/pktgen/live.rs` and `src/compare/receive.rs` to embed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 2] = ["pktgen", "compare"];

fn main() {
    println!("cargo::rerun-if-env-changed=CLANG");
    let objects = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's cfg");
    for program in PROGRAMS {
        let source = format!("bpf/{program}.bpf.c");
        println!("cargo::rerun-if-changed={source}");
        compile(&clang, &architecture, &source, &objects.join(format!("{program}.bpf.o")));
    }
}

fn compile(clang: &str, architecture: &str, source: &str, object: &Path) {
    let mut command = Command::new(clang);
    // -g: aya reads the maps' definitions from BTF, which clang derives from debug information.
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c", source]);
    // Where Debian keeps asm/types.h, in which the BPF target does not look.
    command.arg("-isystem").arg(format!("/usr/include/{architecture}-linux-gnu"));
    command.arg("-o").arg(object);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => println!("cargo::error={clang} could not compile {source}: {status}"),
        Err(error) => println!("cargo::error=cannot run {clang}: {error}; see scripts/setup"),
    }
}
