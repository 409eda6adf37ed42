//! Reading a configuration from its sources, in rising order of authority: defaults, file, environment, flags.
//!
//! Nothing stops at the first error: whoever repairs a configuration wants to see all that is wrong with it. Only a file that is
//! not TOML hides what else might be wrong in it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Config, ConfigError, Origin, section::Section, value::shorten};

/// Larger files are refused unread.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Of syntax errors, so many are reported.
const SYNTAX_ERRORS_MAX: usize = 20;

const ENVIRONMENT_PREFIX: &str = "WEFT__";

/// Where a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<(PathBuf, Missing)>,
    environment: Vec<(OsString, OsString)>,
    flags: Vec<Flag>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Missing {
    IsFine,
    IsAnError,
}

#[derive(Debug, Clone)]
struct Flag {
    name: String,
    key: String,
    values: Vec<String>,
}

impl Sources {
    /// No sources: the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file that the user named and that must exist.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some((path.into(), Missing::IsAnError));
        self
    }

    /// A file that is read if it exists, such as config.toml in the data directory.
    #[must_use]
    pub fn file_if_present(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some((path.into(), Missing::IsFine));
        self
    }

    /// Environment variables, such as `std::env::vars_os()`; those not named `WEFT__SECTION__KEY` are ignored.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let ours = |name: &OsString| name.as_encoded_bytes().starts_with(ENVIRONMENT_PREFIX.as_bytes());
        self.environment
            .extend(variables.into_iter().filter(|(name, _)| ours(name)));
        self
    }

    /// The values given to a flag, such as `--listen`, for a key, such as `mesh.listen`; without values, nothing is set.
    #[must_use]
    pub fn flag<V: Into<String>>(mut self, name: &str, key: &str, values: impl IntoIterator<Item = V>) -> Self {
        let values: Vec<String> = values.into_iter().map(Into::into).collect();
        if !values.is_empty() {
            self.flags.push(Flag {
                name: name.into(),
                key: key.into(),
                values,
            });
        }
        self
    }
}

/// Reads all sources; the configuration as far as it could be read, and everything that is wrong.
pub(super) fn read(sources: &Sources) -> (Config, Vec<ConfigError>) {
    let mut reader = Reader::default();
    if let Some((path, missing)) = &sources.file {
        reader.file(path, *missing);
    }
    for (name, value) in &sources.environment {
        reader.variable(&name.to_string_lossy(), value.to_str());
    }
    for flag in &sources.flags {
        let (section, key) = flag.key.split_once('.').unwrap_or((&flag.key, ""));
        reader.set(Origin::Flag(flag.name.clone()), section, key, |s, key| {
            s.set_text(key, &flag.values, false)
        });
    }
    (reader.config, reader.errors)
}

#[derive(Default)]
struct Reader {
    config: Config,
    errors: Vec<ConfigError>,
}

impl Reader {
    fn file(&mut self, path: &Path, missing: Missing) {
        let unreadable = |reason: String, missing| ConfigError::Unreadable {
            path: path.into(),
            reason,
            missing,
        };
        let bytes = match read_bounded(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::IsFine => return,
            Err(error) => {
                let missing = error.kind() == io::ErrorKind::NotFound;
                return self.errors.push(unreadable(error.to_string(), missing));
            }
        };
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return self.errors.push(ConfigError::TooLarge {
                path: path.into(),
                bytes_max: FILE_BYTES_MAX,
            });
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => self.text(path, text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
                self.errors
                    .push(unreadable(format!("line {line} is not valid UTF-8"), false));
            }
        }
    }

    fn text(&mut self, path: &Path, text: &str) {
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            self.errors.extend(
                errors
                    .iter()
                    .take(SYNTAX_ERRORS_MAX)
                    .map(|error| syntax(path, text, error)),
            );
            return;
        }
        // In the order of the file, which the table does not keep.
        for (name, value) in in_order(document.get_ref()) {
            let origin = |span: std::ops::Range<usize>| Origin::File {
                path: path.into(),
                line: position(text, span.start).0,
            };
            let section = name.get_ref().as_ref();
            let DeValue::Table(table) = value.get_ref() else {
                self.not_a_section(origin(name.span()), section);
                continue;
            };
            if self.config.section(section).is_none() {
                self.unknown_section(origin(name.span()), section);
                continue;
            }
            for (key, value) in in_order(table) {
                self.set(origin(key.span()), section, key.get_ref(), |s, key| {
                    s.set_value(key, value.get_ref())
                });
            }
        }
    }

    fn variable(&mut self, name: &str, value: Option<&str>) {
        let path = name.trim_start_matches(ENVIRONMENT_PREFIX).to_ascii_lowercase();
        let (section, key) = path.split_once("__").unwrap_or((&path, ""));
        let origin = Origin::Environment(printable(name));
        match value {
            Some(text) => self.set(origin, section, key, |s, key| s.set_text(key, &[text.to_owned()], true)),
            None => self.errors.push(ConfigError::Value {
                origin,
                key: format!("{section}.{key}"),
                reason: "expects valid UTF-8".into(),
            }),
        }
    }

    fn set(
        &mut self,
        origin: Origin,
        section: &str,
        key: &str,
        apply: impl FnOnce(&mut dyn Section, &str) -> Result<(), String>,
    ) {
        let Some(target) = self.config.section_mut(section) else {
            return self.unknown_section(origin, section);
        };
        let Some(known) = target.keys().iter().find(|known| known.name == key) else {
            let nearest = nearest_key(&self.config, section, key);
            return self.errors.push(ConfigError::UnknownKey {
                origin,
                key: printable(&format!("{section}.{key}")),
                nearest,
            });
        };
        let full = format!("{section}.{}", known.name);
        match apply(target, known.name) {
            Ok(()) => drop(self.config.origins.insert(full, origin)),
            Err(reason) => self.errors.push(ConfigError::Value {
                origin,
                key: full,
                reason,
            }),
        }
    }

    fn unknown_section(&mut self, origin: Origin, section: &str) {
        let names = self.config.sections().map(|s| s.name());
        let nearest = nearest(section, names.into_iter()).map(Into::into);
        self.errors.push(ConfigError::UnknownSection {
            origin,
            section: printable(section),
            nearest,
        });
    }

    /// A value at the top of the file: most likely a key that lost its section.
    fn not_a_section(&mut self, origin: Origin, name: &str) {
        if self.config.section(name).is_some() {
            let reason = format!("expects a table, [{name}]");
            return self.errors.push(ConfigError::Value {
                origin,
                key: name.into(),
                reason,
            });
        }
        let nearest = nearest_key(&self.config, "", name);
        self.errors.push(ConfigError::UnknownKey {
            origin,
            key: printable(name),
            nearest,
        });
    }
}

/// At most one byte more than the limit, so that a device or a growing file ends too.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

type Entry<'a, 'i> = (&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>);

fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let (line, column) = position(text, error.span().map_or(text.len(), |span| span.start));
    ConfigError::Syntax {
        path: path.into(),
        line,
        column,
        reason: error.message().replace('\n', ", "),
    }
}

/// Line and column of a byte, both counted from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (
        1 + before.matches('\n').count(),
        1 + before[line_start..].chars().count(),
    )
}

/// A name as it is when it is an ordinary one, otherwise shortened and escaped.
fn printable(name: &str) -> String {
    let ordinary = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if ordinary { name.into() } else { shorten(name) }
}

/// The name most like the given one, if any is like it at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name: String = name
        .chars()
        .take(64)
        .collect::<String>()
        .to_ascii_lowercase()
        .replace('-', "_");
    let near = known.map(|candidate| (strsim::osa_distance(&name, candidate), candidate));
    near.filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The key most like the given one: of the same section, else one of just this name in another section.
fn nearest_key(config: &Config, section: &str, key: &str) -> Option<String> {
    let in_section = config
        .section(section)
        .and_then(|s| nearest(key, s.keys().iter().map(|k| k.name)).map(|k| (s.name(), k)));
    let elsewhere = || {
        let sections = config.sections().into_iter();
        let mut near = sections.filter_map(|s| nearest(key, s.keys().iter().map(|k| k.name)).map(|k| (s.name(), k)));
        near.find(|(_, name)| strsim::osa_distance(key, name) <= 1)
    };
    in_section
        .or_else(elsewhere)
        .map(|(section, key)| format!("{section}.{key}"))
}
