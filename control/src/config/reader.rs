//! Reads TOML tables key by key, and remembers where each value stands.
//!
//! Errors are collected, not returned at the first: a value that is wrong is reported and read as
//! absent, so that the rest of the file is still checked. Only syntax errors end the reading of a
//! file, since what follows them cannot be trusted.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// The errors of a configuration, as they are found.
pub(super) type Errors = Vec<ConfigError>;

/// One file of a configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'s> {
    pub(super) path: &'s Path,
    pub(super) text: &'s str,
}

/// Where a value stands.
#[derive(Clone, Debug)]
pub(super) struct Place<'s> {
    document: Document<'s>,
    key: String,
    span: Range<usize>,
}

/// A value that was read, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<'s, T> {
    pub(super) value: T,
    pub(super) place: Place<'s>,
}

/// A key's value, not yet looked at.
#[derive(Clone, Debug)]
pub(super) struct Field<'s> {
    pub(super) place: Place<'s>,
    value: DeValue<'s>,
}

/// A table whose keys are taken out one by one. What is left in the end is unknown.
#[derive(Debug)]
pub(super) struct Section<'s> {
    /// The table's own header, for what is missing in it.
    pub(super) place: Place<'s>,
    table: DeTable<'s>,
    known: BTreeSet<&'static str>,
}

impl<'s> Document<'s> {
    /// The file's top table, unless its syntax is wrong.
    pub(super) fn parse(self, errors: &mut Errors) -> Option<Section<'s>> {
        let (table, syntax) = DeTable::parse_recoverable(self.text);
        for error in &syntax {
            errors.push(ConfigError {
                file: self.path.to_owned(),
                line: error.span().map(|span| self.line(span.start)),
                key: None,
                found: format!("a syntax error: {}", error.message().replace('\n', ", ")),
                remedy: "write it as TOML 1.0 demands (https://toml.io)".into(),
            });
        }
        let place = Place { document: self, key: String::new(), span: 0..0 };
        let table = table.into_inner();
        syntax.is_empty().then_some(Section { place, table, known: BTreeSet::new() })
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line(self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }
}

impl<'s> Place<'s> {
    /// An error about what stands here. `why` completes "found VALUE".
    pub(super) fn error(&self, why: &str, remedy: impl Into<String>) -> ConfigError {
        self.error_found(format!("{}{why}", self.quote()), remedy)
    }

    /// An error about what stands here, described by `found`.
    pub(super) fn error_found(&self, found: String, remedy: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.document.path.to_owned(),
            line: (!self.span.is_empty()).then(|| self.line()),
            key: (!self.key.is_empty()).then(|| self.key.clone()),
            found,
            remedy: remedy.into(),
        }
    }

    /// The line, counted from 1.
    pub(super) fn line(&self) -> usize {
        self.document.line(self.span.start)
    }

    /// The key, with its tables.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// A key that is missing in the table that stands here.
    pub(super) fn key_below(&self, key: &str) -> Self {
        self.below(key, self.span.clone())
    }

    /// What stands here, as it is written, cut to one short line.
    fn quote(&self) -> String {
        const CHARS_MAX: usize = 48;
        let written = self.document.text.get(self.span.clone()).unwrap_or_default();
        let line = written.lines().next().unwrap_or_default();
        if line.len() == written.len() && line.chars().count() <= CHARS_MAX {
            return line.to_owned();
        }
        format!("{}...", line.chars().take(CHARS_MAX).collect::<String>())
    }

    fn below(&self, key: &str, span: Range<usize>) -> Self {
        let dot = if self.key.is_empty() || key.starts_with('[') { "" } else { "." };
        Self { document: self.document, key: format!("{}{dot}{key}", self.key), span }
    }
}

impl<'s> Field<'s> {
    /// A string.
    pub(super) fn text(&self, expected: &str) -> Result<&str, ConfigError> {
        self.value.as_str().ok_or_else(|| self.wrong_type(expected))
    }

    /// A string that parses as `T`. `expected` completes "give".
    pub(super) fn parsed<T: FromStr>(&self, expected: &str) -> Result<T, ConfigError> {
        let text = self.text(expected)?;
        text.parse().map_err(|_| self.place.error("", format!("give {expected}")))
    }

    /// A string that is one of the names.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let expected = format!("one of {}", names.join(", "));
        let text = self.text(&expected)?;
        let chosen = choices.iter().find(|(name, _)| *name == text);
        chosen
            .map(|&(_, value)| value)
            .ok_or_else(|| self.place.error("", format!("give {expected}")))
    }

    /// An integer within `range`. `what` names it with its unit.
    pub(super) fn integer(
        &self,
        range: RangeInclusive<u64>,
        what: &str,
    ) -> Result<u64, ConfigError> {
        let expected = format!("{what} from {} to {}", range.start(), range.end());
        let Some(integer) = self.value.as_integer() else {
            return Err(self.wrong_type(&expected));
        };
        let value = u64::from_str_radix(integer.as_str(), integer.radix());
        value
            .ok()
            .filter(|value| range.contains(value))
            .ok_or_else(|| self.place.error("", format!("give {expected}")))
    }

    /// A truth value.
    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// The elements of an array.
    pub(super) fn elements(&self, expected: &str) -> Result<Vec<Field<'s>>, ConfigError> {
        let array = self.value.as_array().ok_or_else(|| self.wrong_type(expected))?;
        let field = |(at, element): (usize, &toml::Spanned<DeValue<'s>>)| Field {
            place: self.place.below(&format!("[{at}]"), element.span()),
            value: element.get_ref().clone(),
        };
        Ok(array.iter().enumerate().map(field).collect())
    }

    /// A table.
    pub(super) fn section(&self) -> Result<Section<'s>, ConfigError> {
        let table = self.value.as_table().ok_or_else(|| {
            self.wrong_type(&format!("a table, with its own header [{}]", self.place.key))
        })?;
        let table = table.clone();
        Ok(Section { place: self.place.clone(), table, known: BTreeSet::new() })
    }

    fn wrong_type(&self, expected: &str) -> ConfigError {
        let remedy = format!("give {expected}");
        match self.value.type_str() {
            "array" => self.place.error_found("an array".into(), remedy),
            "table" => self.place.error_found("a table".into(), remedy),
            "integer" => self.place.error(", an integer", remedy),
            scalar => self.place.error(&format!(", a {scalar}"), remedy),
        }
    }
}

impl<'s> Section<'s> {
    /// Whether `key` is there and was not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of `key`, which may be absent.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'s>> {
        self.known.insert(key);
        let value = self.table.remove(key)?;
        let place = self.place.below(key, value.span());
        Some(Field { place, value: value.into_inner() })
    }

    /// The value of `key` as `read` reads it; `None` if it is absent or wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        errors: &mut Errors,
        read: impl FnOnce(&Field<'s>) -> Result<T, ConfigError>,
    ) -> Option<Located<'s, T>> {
        let field = self.take(key)?;
        match read(&field) {
            Ok(value) => Some(Located { value, place: field.place }),
            Err(error) => {
                errors.push(error);
                None
            }
        }
    }

    /// Like [`optional`](Self::optional), and an error if `key` is absent. `example` is the line
    /// to write.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        errors: &mut Errors,
        read: impl FnOnce(&Field<'s>) -> Result<T, ConfigError>,
    ) -> Option<Located<'s, T>> {
        if !self.table.contains_key(key) {
            self.known.insert(key);
            let missing = self.place.key_below(key);
            let remedy = format!("add it, for example `{example}`");
            errors.push(missing.error_found("nothing".into(), remedy));
            return None;
        }
        self.optional(key, errors, read)
    }

    /// The value of `key` as `read` reads it, or `default` if it is absent. A wrong value also
    /// gives `default`, and an error.
    pub(super) fn or_default<T>(
        &mut self,
        key: &'static str,
        default: T,
        errors: &mut Errors,
        read: impl FnOnce(&Field<'s>) -> Result<T, ConfigError>,
    ) -> T {
        self.optional(key, errors, read).map_or(default, |located| located.value)
    }

    /// The elements of the array `key`; none if it is absent. Wrong elements are reported and
    /// left out.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        errors: &mut Errors,
        mut read: impl FnMut(&Field<'s>) -> Result<T, ConfigError>,
    ) -> Vec<Located<'s, T>> {
        let elements = self.optional(key, errors, |field| field.elements(expected));
        let mut values = Vec::new();
        for field in elements.map_or_else(Vec::new, |located| located.value) {
            match read(&field) {
                Ok(value) => values.push(Located { value, place: field.place }),
                Err(error) => errors.push(error),
            }
        }
        values
    }

    /// The table `key`; none if it is absent or no table.
    pub(super) fn table(&mut self, key: &'static str, errors: &mut Errors) -> Option<Section<'s>> {
        self.optional(key, errors, Field::section).map(|located| located.value)
    }

    /// Reports every key that nobody took.
    pub(super) fn finish(self, errors: &mut Errors) {
        for (key, _) in &self.table {
            let written: &str = key.get_ref();
            let nearest = self.known.iter().min_by_key(|known| edits(known, written));
            let remedy = match nearest.filter(|known| edits(known, written) <= 2) {
                Some(known) => format!("did you mean `{known}`?"),
                None => {
                    let known: Vec<_> = self.known.iter().copied().collect();
                    format!("remove it; the keys here are {}", known.join(", "))
                }
            };
            let place = self.place.below(written, key.span());
            errors.push(place.error_found("an unknown key".into(), remedy));
        }
    }
}

/// The least number of insertions, deletions and replacements that make `a` into `b`
/// (Levenshtein, 1966).
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_counts_the_least_number_of_changes() {
        assert_eq!(edits("interface", "interface"), 0);
        assert_eq!(edits("interface", "interfaces"), 1);
        assert_eq!(edits("interface", "inferface"), 1);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
