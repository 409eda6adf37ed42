//! The grammar of names, roles and labels: `[a-z0-9][a-z0-9-_.]*`, at most 64 bytes, dots only between other characters.

use crate::error::{DecodeError, at_most};
use crate::limits::{NAME_BYTES_MAX, REASON_BYTES_MAX};
use crate::subject::Subject;

/// Checks a name; `what` says in errors what kind of name it is.
pub fn check_name(what: &'static str, name: &str) -> Result<(), DecodeError> {
    at_most(what, name.len(), NAME_BYTES_MAX)?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let Some(first) = name.bytes().next() else {
        return Err(DecodeError::invalid(what, "it is empty"));
    };
    if !plain(first) {
        return Err(DecodeError::invalid(
            what,
            format!("{name:?} does not start with a-z or 0-9"),
        ));
    }
    if let Some(odd) = name
        .chars()
        .find(|c| !c.is_ascii() || !(plain(*c as u8) || "-_.".contains(*c)))
    {
        return Err(DecodeError::invalid(
            what,
            format!("{name:?} contains {odd:?}, allowed are a-z 0-9 - _ ."),
        ));
    }
    if name.ends_with('.') || name.contains("..") {
        return Err(DecodeError::invalid(
            what,
            format!("{name:?} has a dot with nothing after it"),
        ));
    }
    Ok(())
}

/// Checks a role: a name that is also a subject below `role.`, because the right to invite is granted on that subject.
pub fn check_role(role: &str) -> Result<(), DecodeError> {
    role_subject(role).map(|_| ())
}

/// The first token of the subjects that stand for roles.
pub(crate) const ROLE_TOKEN: &str = "role";

/// The subject that stands for a role when the right to invite is checked: `role.<name>`.
pub fn role_subject(role: &str) -> Result<Subject, DecodeError> {
    check_name("role", role)?;
    format!("{ROLE_TOKEN}.{role}").parse()
}

/// Checks that no entry occurs twice.
pub(crate) fn check_distinct<'a>(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), DecodeError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(DecodeError::invalid(what, format!("{name:?} occurs twice")));
        }
    }
    Ok(())
}

/// Checks text that people read: bounded, no control characters that could play with a terminal.
pub(crate) fn check_text(what: &'static str, text: &str, bytes_max: usize) -> Result<(), DecodeError> {
    at_most(what, text.len(), bytes_max)?;
    match text.chars().find(|c| c.is_control()) {
        Some(odd) => Err(DecodeError::invalid(
            what,
            format!("it contains the control character {odd:?}"),
        )),
        None => Ok(()),
    }
}

/// Cuts a reason to what [`REASON_BYTES_MAX`] allows and replaces control characters, so that a refusal can always be sent.
pub fn reason(text: &str) -> String {
    let mut cut = String::with_capacity(text.len().min(REASON_BYTES_MAX));
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if cut.len() + c.len_utf8() > REASON_BYTES_MAX {
            break;
        }
        cut.push(c);
    }
    cut
}
