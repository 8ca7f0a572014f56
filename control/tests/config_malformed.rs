//! What vipdp says of configurations that are wrong.
//!
//! Each directory of `fixtures/config/malformed` is one configuration. It holds the files in which
//! it differs from `fixtures/config/base`, which is right. What is said of it is the snapshot of
//! the same name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
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

/// What a slip of the hand, or of a template, puts into a file.
fn slip() -> impl Strategy<Value = String> {
    let pieces =
        "\n[[member]]\n|[timing]\n|slot = |\"|'|[|]|{|}|=|-1|0x|1e9|2026-01-01|\u{e4}|\u{1f}|# |,";
    let pieces: Vec<_> = pieces.split('|').map(str::to_owned).collect();
    prop_oneof![prop::sample::select(pieces), "\\PC{0,4}"]
}

proptest! {
    /// Whatever is cut out of the files or put into them, the answer is a configuration or errors
    /// that name a file, never a panic.
    #[test]
    fn no_slip_of_the_hand_makes_it_panic(
        slips in vec((0..3_usize, any::<prop::sample::Index>(), 0..12_usize, slip()), 1..4),
    ) {
        let names = ["node.toml", "cluster.toml", "cluster.key"];
        let base = fixtures().join("base");
        let mut texts = names.map(|name| fs::read_to_string(base.join(name)).unwrap());
        for (file, at, cut, put) in slips {
            let text: Vec<_> = texts[file].chars().collect();
            let at = at.index(text.len() + 1);
            let (head, tail) = text.split_at(at);
            let tail = &tail[cut.min(tail.len())..];
            texts[file] = head.iter().copied().chain(put.chars()).chain(tail.iter().copied()).collect();
        }
        let result = Config::from_sources(Path::new("node.toml"), |path| {
            let file = names.iter().position(|name| Path::new(name) == path);
            let text = file.map(|file| texts[file].clone());
            Ok(Source { text: text.ok_or(io::ErrorKind::NotFound)?, mode: 0o600 })
        });
        if let Err(errors) = result {
            for error in errors.iter() {
                prop_assert!(names.iter().any(|name| error.file == Path::new(name)), "{error}");
                prop_assert!(!error.to_string().contains('\n'), "{error:?}");
            }
        }
    }
}
