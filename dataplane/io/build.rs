//! Compiles the XDP program with clang; `src/xdp` embeds the object. With the feature `dpdk` also the shim
//! that DPDK is called by.

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
    #[cfg(feature = "dpdk")]
    dpdk::build();
}

#[cfg(feature = "dpdk")]
mod dpdk {
    const SHIM: &str = "dpdk/shim.c";

    /// The first release with all that the shim uses.
    const VERSION_MIN: &str = "22.11";

    /// What the shim calls. The drivers are loaded by DPDK itself when it starts.
    const LIBRARIES: [&str; 4] = ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_eal"];

    const REMEDY: &str = "the feature `dpdk` needs DPDK 22.11 or later and a C compiler; on Debian: \
        apt-get install libdpdk-dev dpdk pkg-config gcc";

    pub fn build() {
        println!("cargo::rerun-if-changed={SHIM}");
        let mut found = pkg_config::Config::new();
        let dpdk = match found.atleast_version(VERSION_MIN).cargo_metadata(false).probe("libdpdk") {
            Ok(dpdk) => dpdk,
            Err(problem) => {
                for line in problem.to_string().lines().filter(|line| !line.is_empty()) {
                    println!("cargo::warning={line}");
                }
                println!("cargo::error={REMEDY}");
                return;
            }
        };
        let mut build = cc::Build::new();
        build.file(SHIM).opt_level(3).warnings(true).extra_warnings(true);
        // DPDK's headers hold to fewer warnings than we do.
        for path in &dpdk.include_paths {
            build.flag("-isystem").flag(path);
        }
        // Its inline functions are for the processors that it was built for: `-march=corei7` on Debian,
        // which is among what pkg-config tells but for paths and names.
        for flag in cflags() {
            build.flag(flag);
        }
        if let Err(problem) = build.try_compile("vipdp_dpdk") {
            println!("cargo::error={SHIM}: {problem}");
            println!("cargo::error={REMEDY}");
            return;
        }
        for path in &dpdk.link_paths {
            println!("cargo::rustc-link-search=native={}", path.display());
        }
        for library in LIBRARIES {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }

    /// Compiler flags beside paths: the processor, and the header that comes before all others.
    fn cflags() -> Vec<String> {
        let output =
            std::process::Command::new("pkg-config").args(["--cflags", "libdpdk"]).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut words = text.split_whitespace();
        let mut flags = Vec::new();
        while let Some(word) = words.next() {
            match word {
                "-include" => flags.extend([word, words.next().unwrap_or_default()]),
                _ if word.starts_with("-m") => flags.push(word),
                _ => {}
            }
        }
        flags.into_iter().map(str::to_owned).collect()
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
