//! A copy of the protocol's sources, in which rules are broken and the simulator is run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Mutant, root};

/// The package that stands for `vipdp`: its protocol alone.
const CONTROL: &str = r#"[package]
name = "vipdp"
version = "0.1.0"
edition = "2024"

[dependencies]
vipdp-core.workspace = true
hmac.workspace = true
sha2.workspace = true
thiserror.workspace = true
"#;

const HUNT: &str = r#"[package]
name = "hunt"
version = "0.1.0"
edition = "2024"

[[bin]]
name = "hunt"
path = "main.rs"

[dependencies]
vipdp-simulator.workspace = true
"#;

/// A workspace of its own: the protocol's sources, the simulator's, and the hunt.
#[derive(Debug)]
pub struct Bench {
    dir: PathBuf,
}

/// What came of a hunt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A check was violated.
    Caught {
        /// In which scenario.
        scenario: String,
        /// With how many per cent of messages lost.
        loss: String,
        /// Under which seed.
        seed: String,
        /// Which check.
        rule: String,
        /// In which run.
        runs: String,
    },
    /// None was, in so many runs.
    Passed(String),
}

/// What of the control plane the protocol uses beside its own.
const BESIDE: [&str; 2] = ["damping", "jitter"];

impl Bench {
    /// Sets the workspace up in `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new(dir: PathBuf) -> io::Result<Self> {
        let root = root();
        let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
        let bench = Self { dir };
        bench.write("Cargo.toml", &workspace(&manifest, &root))?;
        bench.write("control/Cargo.toml", CONTROL)?;
        let modules: String = BESIDE.iter().map(|name| format!("pub mod {name};\n")).collect();
        bench.write("control/src/lib.rs", &format!("pub mod cluster;\n{modules}"))?;
        for name in BESIDE {
            let file = format!("control/src/{name}.rs");
            bench.copy(&root.join(&file), &file)?;
        }
        bench.write("hunt/Cargo.toml", HUNT)?;
        bench.copy(&root.join("Cargo.lock"), "Cargo.lock")?;
        bench.copy(&root.join("tests/mutants/hunt/main.rs"), "hunt/main.rs")?;
        bench.copy(&root.join("tests/simulator/Cargo.toml"), "simulator/Cargo.toml")?;
        bench.copy_tree(&root.join("tests/simulator/src"), "simulator/src")?;
        bench.copy_tree(&root.join("control/src/cluster"), "control/src/cluster")?;
        let test = "tests/protocol.rs";
        bench.copy(&root.join("tests/simulator").join(test), &format!("simulator/{test}"))?;
        Ok(bench)
    }

    /// Breaks a rule, hunts for `seeds` seeds per scenario, and mends it.
    ///
    /// # Errors
    /// What went wrong, in a sentence: the mutant's line is not there, or it does not build.
    pub fn hunt(&self, mutant: Option<&Mutant>, seeds: u64) -> Result<Verdict, String> {
        let Some(mutant) = mutant else {
            self.build()?;
            let verdict = self.run(seeds, &[])?;
            return self.or_test(verdict);
        };
        let file = format!("control/src/cluster/{}", mutant.file);
        // As it was when the bench was set up: the sources may change meanwhile.
        let whole = fs::read_to_string(self.dir.join(&file));
        let whole = whole.map_err(|error| format!("{file}: {error}"))?;
        let write =
            |text: &str| self.write(&file, text).map_err(|error| format!("{file}: {error}"));
        write(&mutant.apply(&whole)?)?;
        let verdict =
            self.build().and_then(|()| self.run(seeds, mutant.first)).and_then(|v| self.or_test(v));
        write(&whole)?;
        verdict.map_err(|why| format!("mutant {:?}: {why}", mutant.name))
    }

    /// Tries the simulator's `tests/protocol.rs` too if no scenario has found anything.
    fn or_test(&self, verdict: Verdict) -> Result<Verdict, String> {
        if !matches!(verdict, Verdict::Passed(_)) {
            return Ok(verdict);
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["test", "--offline", "--quiet", "-p", "vipdp-simulator", "--test", "protocol"])
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            .env_remove("RUSTFLAGS")
            .current_dir(&self.dir)
            .output()
            .map_err(|error| format!("cargo: {error}"))?;
        if output.status.success() {
            return Ok(verdict);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = text.lines().find_map(|line| {
            line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----"))
        });
        let failed = failed.ok_or_else(|| {
            format!("its tests do not build:\n{}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok(Verdict::Caught {
            scenario: failed.into(),
            loss: "-".into(),
            seed: "-".into(),
            rule: "test".into(),
            runs: "-".into(),
        })
    }

    fn build(&self) -> Result<(), String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--offline", "--quiet", "-p", "hunt"])
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            .env_remove("RUSTFLAGS")
            .current_dir(&self.dir)
            .output()
            .map_err(|error| format!("cargo: {error}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("it does not build:\n{text}")) }
    }

    fn run(&self, seeds: u64, first: &[&str]) -> Result<Verdict, String> {
        let output = Command::new(self.dir.join("target/debug/hunt"))
            .arg(seeds.to_string())
            .args(first)
            .output()
            .map_err(|error| format!("hunt: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["caught", scenario, loss, seed, ref rule @ .., runs] => Ok(Verdict::Caught {
                scenario: scenario.into(),
                loss: loss.into(),
                seed: seed.into(),
                rule: rule.join(" "),
                runs: runs.into(),
            }),
            ["passed", runs] => Ok(Verdict::Passed(runs.into())),
            _ => Err(format!("hunt: {text}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let path = self.dir.join(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        // What is the same need not be built anew.
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(path, text)
    }

    fn copy(&self, from: &Path, to: &str) -> io::Result<()> {
        self.write(to, &fs::read_to_string(from)?)
    }

    fn copy_tree(&self, from: &Path, to: &str) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let to = format!("{to}/{}", entry.file_name().display());
            if entry.file_type()?.is_dir() {
                self.copy_tree(&entry.path(), &to)?;
            } else {
                self.copy(&entry.path(), &to)?;
            }
        }
        Ok(())
    }
}

/// The manifest of the workspace here, with the dependencies of the one at `root`.
fn workspace(manifest: &str, root: &Path) -> String {
    let mut text = String::from(
        "[workspace]\nresolver = \"3\"\nmembers = [\"control\", \"simulator\", \"hunt\"]\n\n\
         [profile.dev]\nopt-level = 1\ndebug = false\n\n",
    );
    let mut wanted = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            wanted = line.starts_with("[workspace.package]")
                || line.starts_with("[workspace.dependencies]")
                || line.starts_with("[workspace.lints");
        }
        if !wanted {
            continue;
        }
        let local = match line.split(' ').next() {
            Some("vipdp") => Some("control".into()),
            Some("vipdp-simulator") => Some("simulator".into()),
            Some("vipdp-core") => Some(root.join("dataplane/core")),
            Some("vipdp-io") => Some(root.join("dataplane/io")),
            _ => None,
        };
        match (local, line.split(' ').next()) {
            (Some(path), Some(name)) => text += &format!("{name} = {{ path = {path:?} }}\n"),
            _ => text += &format!("{line}\n"),
        }
    }
    text
}
