//! Asking a person for a passphrase, without showing it.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::CliError;
use crate::trust::passphrase::{
    NEW_PASSPHRASE_FILE_VARIABLE, PASSPHRASE_FILE_VARIABLE, Passphrase, from_surroundings, new_from_surroundings,
};

/// The passphrase that opens `what`: from the surroundings, else from the person at the terminal.
pub(crate) fn known(what: &str) -> Result<Passphrase, CliError> {
    match from_surroundings(|name| std::env::var_os(name))? {
        Some(passphrase) => Ok(passphrase),
        None => {
            let text = line(&format!("Passphrase of {what}: "), PASSPHRASE_FILE_VARIABLE)?;
            Ok(Passphrase::new(text)?)
        }
    }
}

/// A passphrase to be: from the surroundings, else typed twice by the person at the terminal.
pub(crate) fn chosen() -> Result<Passphrase, CliError> {
    if let Some(passphrase) = new_from_surroundings(|name| std::env::var_os(name))? {
        return Ok(passphrase);
    }
    let first = line("New passphrase: ", NEW_PASSPHRASE_FILE_VARIABLE)?;
    if first.is_empty() {
        return Err(CliError::Usage(
            "the passphrase is empty; nothing was changed".to_owned(),
        ));
    }
    let again = line("The same again: ", NEW_PASSPHRASE_FILE_VARIABLE)?;
    if *first != *again {
        return Err(CliError::Usage(
            "the two passphrases are not the same; nothing was changed".to_owned(),
        ));
    }
    Ok(Passphrase::new(first)?)
}

/// The first passphrase of a key that has none: as [`chosen`], but before a person is asked, from the surroundings that will
/// open the key later.
pub(crate) fn first() -> Result<Passphrase, CliError> {
    let variable = |name: &str| std::env::var_os(name);
    if let Some(passphrase) = new_from_surroundings(variable)? {
        return Ok(passphrase);
    }
    match from_surroundings(variable)? {
        Some(passphrase) => Ok(passphrase),
        None => chosen(),
    }
}

/// One line from the terminal, even when standard input and output are pipes.
fn line(prompt: &str, variable: &str) -> Result<Zeroizing<String>, CliError> {
    let no_terminal = |_| {
        CliError::Usage(format!(
            "a passphrase is needed and there is no terminal to ask for it; put it into a file that {variable} names"
        ))
    };
    let mut terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(no_terminal)?;
    let fail = |error| CliError::io("cannot read the passphrase", error);
    terminal.write_all(prompt.as_bytes()).map_err(fail)?;
    let quiet = Quiet::on(&terminal).map_err(fail)?;
    let mut text = Zeroizing::new(String::with_capacity(1024));
    let read = BufReader::new(&terminal).read_line(&mut text);
    drop(quiet);
    terminal.write_all(b"\n").map_err(fail)?;
    read.map_err(fail)?;
    while text.ends_with(['\n', '\r']) {
        text.pop();
    }
    Ok(text)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn on(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
