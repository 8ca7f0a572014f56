//! Cases as text: what happens to a state machine, and what it does about it.
//!
//! A case is a sentence (`#`), perhaps a configuration (`config`), and then what happens (`>`) and
//! what is done about it (`<`), line by line. Blank lines part cases.

use std::fs;
use std::path::Path;

/// One case of a file.
struct Case {
    /// Where its sentence stands.
    line: usize,
    sentence: String,
    config: Vec<String>,
    /// What happens and what is done, as written.
    script: Vec<String>,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut between = true;
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() {
            between = true;
        } else if let Some(sentence) = line.strip_prefix("# ") {
            if between {
                let (line, sentence) = (index + 1, sentence.to_owned());
                cases.push(Case { line, sentence, config: Vec::new(), script: Vec::new() });
            } else {
                let case = cases.last_mut().expect("a sentence began");
                case.sentence.push(' ');
                case.sentence.push_str(sentence);
            }
            between = false;
        } else {
            let case = cases.last_mut().filter(|_| !between);
            let case = case.unwrap_or_else(|| panic!("line {}: no sentence above", index + 1));
            match line.strip_prefix("config ") {
                Some(config) => case.config.extend(config.split(' ').map(str::to_owned)),
                None => case.script.push(line.to_owned()),
            }
        }
    }
    cases
}

/// Plays all cases of the files in `conformance/<directory>`; panics with those that go otherwise
/// than written, and if there are not more than `count_min`.
pub fn play_all(
    directory: &str,
    count_min: usize,
    play: impl Fn(&[String], &mut dyn Iterator<Item = &str>) -> Vec<String>,
) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(directory);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    let mut failures = Vec::new();
    let mut count = 0;
    for file in &files {
        for case in cases(&fs::read_to_string(file).unwrap()) {
            count += 1;
            let mut inputs = case.script.iter().filter_map(|line| line.strip_prefix("> "));
            let played = play(&case.config, &mut inputs);
            if played != case.script {
                failures.push(format!(
                    "{}:{}: {}\n{}",
                    file.file_name().unwrap().display(),
                    case.line,
                    case.sentence,
                    difference(&case.script, &played),
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count > count_min, "only {count} cases were found");
}

/// What was expected and what was done, from the first line on that differs.
fn difference(expected: &[String], played: &[String]) -> String {
    let same = expected.iter().zip(played).take_while(|(one, other)| one == other).count();
    let lines = |sign, lines: &[String]| {
        lines[same..].iter().map(|line| format!("  {sign} {line}\n")).collect::<String>()
    };
    lines('-', expected) + &lines('+', played)
}
