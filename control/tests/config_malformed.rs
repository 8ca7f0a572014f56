//! What vipdp says of configurations that are wrong.
//!
//! Each directory of `fixtures/config/malformed` is one configuration. It holds the files in which
//! it differs from `fixtures/config/base`, which is right. What is said of it is the snapshot of
//! the same name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vipdp::config::{Config, ConfigErrors, Source};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

/// Checks the base with the files of `case` in place of its own.
fn check(case: &Path) -> Result<Config, ConfigErrors> {
    Config::from_sources(Path::new("node.toml"), |path| {
        let own = case.join(path);
        let file = if own.exists() { own } else { fixtures().join("base").join(path) };
        if !file.exists() {
            // Not the system's own words, which differ from system to system.
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such file"));
        }
        Ok(Source { text: fs::read_to_string(file)?, mode: 0o600 })
    })
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_base_is_right() {
    check(&fixtures().join("base")).unwrap();
}

#[test]
fn every_mistake_is_told_with_its_place_and_its_remedy() {
    let directory = fixtures().join("malformed");
    let cases = names(&directory);
    assert!(cases.len() >= 30, "only {} cases", cases.len());
    for case in &cases {
        let errors = check(&directory.join(case)).expect_err(case);
        for error in errors.iter() {
            assert!(!error.remedy.is_empty(), "{case}: {error}");
        }
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("config_{case}"), errors.to_string());
        });
    }
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let of_a_case = |name: &String| {
        let case = name.strip_prefix("config_").and_then(|name| name.strip_suffix(".snap"));
        case.is_none_or(|case| cases.contains(case))
    };
    let left_over: Vec<_> = names(&snapshots).into_iter().filter(|name| !of_a_case(name)).collect();
    assert!(left_over.is_empty(), "snapshots of no case: {left_over:?}");
}
