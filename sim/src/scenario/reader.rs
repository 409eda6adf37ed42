//! Reading a section key by key: what is wrong is gathered, not thrown, so that a person sees all of it at once.
//!
//! A key is known because it was asked for; what is left over is unknown, and the error names the nearest known one.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::Problem,
    field::{Field, found, shorten},
};

/// A file being read.
pub(super) struct Doc<'d> {
    file: &'d str,
    text: &'d str,
    problems: RefCell<Vec<Problem>>,
    known: RefCell<BTreeMap<String, BTreeSet<&'static str>>>,
}

impl<'d> Doc<'d> {
    pub(super) fn new(file: &'d str, text: &'d str) -> Self {
        Self {
            file,
            text,
            problems: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// Notes what is wrong at a byte of the file.
    pub(super) fn wrong_at(&self, offset: Option<usize>, key: &str, reason: impl Into<String>) {
        let line = offset.map_or(0, |offset| {
            let head = self.text.as_bytes().iter().take(offset);
            1 + head.filter(|byte| **byte == b'\n').count()
        });
        self.problems.borrow_mut().push(Problem {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
            reason: reason.into(),
        });
    }

    /// Everything that is wrong, in the order of the lines.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems.dedup();
        problems
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// The keys that were asked for, by section: what a scenario may have.
    #[cfg(test)]
    pub(super) fn known(&self) -> BTreeMap<String, BTreeSet<&'static str>> {
        self.known.borrow().clone()
    }
}

/// One section of the file.
pub(super) struct Keys<'d> {
    pub(super) doc: &'d Doc<'d>,
    section: String,
    table: Option<&'d DeTable<'d>>,
    offset: Option<usize>,
    asked: BTreeSet<&'static str>,
}

impl<'d> Keys<'d> {
    /// A section that may not be there: then every key of it has its default.
    pub(super) fn new(doc: &'d Doc<'d>, section: &str, table: Option<&'d DeTable<'d>>, offset: Option<usize>) -> Self {
        Self {
            doc,
            section: section.to_owned(),
            table,
            offset,
            asked: BTreeSet::new(),
        }
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The key as it stands there.
    pub(super) fn raw(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.insert(key);
        let known = &mut *self.doc.known.borrow_mut();
        known.entry(self.section.clone()).or_default().insert(key);
        self.table?.get(key)
    }

    /// Notes that the key's value is wrong, or what is wrong with the section for want of it.
    pub(super) fn wrong(&self, key: &str, reason: impl Into<String>) {
        let offset = self.table.and_then(|table| {
            let (name, _) = table.get_key_value(key)?;
            Some(name.span().start)
        });
        self.doc.wrong_at(offset.or(self.offset), &self.full(key), reason);
    }

    fn full(&self, key: &str) -> String {
        match (self.section.as_str(), key) {
            ("", key) => key.to_owned(),
            (section, "") => section.to_owned(),
            (section, key) => format!("{section}.{key}"),
        }
    }

    /// The value, if it is there and of its kind.
    pub(super) fn opt<T: Field>(&mut self, key: &'static str) -> Option<T> {
        let value = self.raw(key)?.get_ref();
        let read = T::read(value);
        if read.is_none() {
            self.wrong(key, format!("expects {}, found {}", T::EXPECTS, found(value)));
        }
        read
    }

    /// The value, or this.
    pub(super) fn or<T: Field>(&mut self, key: &'static str, default: T) -> T {
        self.opt(key).unwrap_or(default)
    }

    /// The value, which must be there.
    pub(super) fn need<T: Field>(&mut self, key: &'static str) -> Option<T> {
        if !self.has(key) {
            self.raw(key);
            self.wrong(key, format!("is missing; it expects {}", T::EXPECTS));
            return None;
        }
        self.opt(key)
    }

    /// One of some words.
    pub(super) fn word(&mut self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text: String = self.opt(key)?;
        let known = words.iter().find(|word| **word == text).copied();
        if known.is_none() {
            let hint = did_you_mean(nearest(&text, words.iter().copied()));
            let words = words.join(", ");
            self.wrong(key, format!("{} is none of {words}{hint}", shorten(&text)));
        }
        known
    }

    /// One of some words, which must be there.
    pub(super) fn need_word(&mut self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        if !self.has(key) {
            self.raw(key);
            self.wrong(key, format!("is missing; it is one of {}", words.join(", ")));
            return None;
        }
        self.word(key, words)
    }

    /// A section below this one.
    pub(super) fn section(&mut self, key: &'static str) -> Keys<'d> {
        let full = self.full(key);
        match self.raw(key) {
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => Keys::new(self.doc, &full, Some(table), Some(value.span().start)),
                other => {
                    self.wrong(key, format!("expects a section [{full}], found {}", found(other)));
                    Keys::new(self.doc, &full, None, None)
                }
            },
            None => Keys::new(self.doc, &full, None, None),
        }
    }

    /// The sections of a list of them, `[[key]]`.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<Keys<'d>> {
        let full = self.full(key);
        let Some(value) = self.raw(key) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(
                key,
                format!("expects sections [[{full}]], found {}", found(value.get_ref())),
            );
            return Vec::new();
        };
        let mut list = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    list.push(Keys::new(self.doc, &full, Some(table), Some(item.span().start)));
                }
                other => self.wrong(key, format!("expects sections [[{full}]], found {}", found(other))),
            }
        }
        list
    }

    /// The entries whose names are the user's, in the order of the file; all count as known.
    pub(super) fn entries(&mut self) -> Vec<(&'d str, &'d Spanned<DeValue<'d>>)> {
        let Some(table) = self.table else {
            return Vec::new();
        };
        let mut entries: Vec<_> = table
            .iter()
            .filter(|(name, _)| !self.asked.contains(name.get_ref().as_ref()))
            .map(|(name, value)| (name.span().start, name.get_ref().as_ref(), value))
            .collect();
        entries.sort_by_key(|(start, _, _)| *start);
        entries.into_iter().map(|(_, name, value)| (name, value)).collect()
    }

    /// Notes every key nobody asked for.
    pub(super) fn done(self) {
        let Some(table) = self.table else { return };
        for (name, _) in table.iter() {
            let text = name.get_ref().as_ref();
            if self.asked.contains(text) {
                continue;
            }
            let hint = did_you_mean(nearest(text, self.asked.iter().copied()));
            let key = self.full(&shorten(text).replace('"', ""));
            self.doc.wrong_at(
                Some(name.span().start),
                &key,
                format!("is no key that means anything here{hint}"),
            );
        }
    }
}

/// The word that is most like this one, if any is like it.
pub(super) fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    /// No key is longer; and the distance costs memory in both lengths.
    const CHARS_MAX: usize = 64;
    if word.len() > CHARS_MAX {
        return None;
    }
    words
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

/// The hint that goes with it.
pub(super) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|word| format!("; did you mean {word}?"))
        .unwrap_or_default()
}
