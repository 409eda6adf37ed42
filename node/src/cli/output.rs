//! Where words go: data to standard output, talk to standard error.
//!
//! On a terminal a list is a table with colours; piped, it is plain columns with `-` for an empty cell; with `--json`, one object
//! a line. Text that came from a peer never reaches the terminal with its control characters. A reader that goes away
//! (`| head`) ends the program quietly. Not promised: the layout of the human forms.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde_json::Value;

use super::error::CliError;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A colour with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// All is well.
    Good,
    /// Look here.
    Warn,
    /// Something is wrong.
    Bad,
    /// Less important.
    Dim,
    /// More important.
    Strong,
}

/// The two streams of a command and how to write on them.
pub(crate) struct Out {
    stdout: Mutex<Box<dyn Write + Send>>,
    stderr: Mutex<Box<dyn Write + Send>>,
    /// Machine-readable output was asked for.
    pub(crate) json: bool,
    /// A person looks at standard output.
    pub(crate) terminal: bool,
    /// A person looks at standard error.
    pub(crate) talk_terminal: bool,
    color: bool,
    /// Standard error may be coloured.
    pub(crate) color_talk: bool,
}

impl Out {
    /// The process's own streams.
    pub(crate) fn standard(json: bool, when: ColorWhen) -> Self {
        let terminal = io::stdout().is_terminal();
        let talk_terminal = io::stderr().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let color = |is_terminal: bool| match when {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => is_terminal && !plain,
        };
        Self {
            stdout: Mutex::new(Box::new(io::stdout())),
            stderr: Mutex::new(Box::new(io::stderr())),
            json,
            terminal,
            talk_terminal,
            color: color(terminal),
            color_talk: color(talk_terminal),
        }
    }

    /// Output into any writers, as if they were pipes.
    #[cfg(test)]
    pub(crate) fn piped(json: bool, stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> Self {
        Self {
            stdout: Mutex::new(stdout),
            stderr: Mutex::new(stderr),
            json,
            terminal: false,
            talk_terminal: false,
            color: false,
            color_talk: false,
        }
    }

    /// Writes bytes as they are and flushes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(CliError::Output)
    }

    /// Writes one line and flushes.
    pub(crate) fn line(&self, text: &str) -> Result<(), CliError> {
        let mut line = Vec::with_capacity(text.len() + 1);
        line.extend_from_slice(text.as_bytes());
        line.push(b'\n');
        self.bytes(&line)
    }

    /// Writes one JSON value on one line.
    pub(crate) fn json_line(&self, value: &Value) -> Result<(), CliError> {
        self.line(&json_text(value))
    }

    /// Says something to the person, not to the pipe.
    pub(crate) fn say(&self, text: &str) {
        let mut stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody is left to be told when standard error is gone.
        let _ = stderr.write_all(format!("{text}\n").as_bytes());
    }

    /// Text in a colour for standard output, if colours are on.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        painted(self.color, tone, text)
    }

    /// Text in a colour for standard error, if colours are on.
    pub(crate) fn paint_talk(&self, tone: Tone, text: &str) -> String {
        painted(self.color_talk, tone, text)
    }

    /// Writes a list: as a table, as plain columns, or nothing but a word on standard error when it is empty.
    pub(crate) fn table(&self, headers: &[&str], rows: &[Vec<String>], empty: &str) -> Result<(), CliError> {
        if rows.is_empty() {
            self.say(empty);
            return Ok(());
        }
        let text = if self.terminal {
            self.pretty(headers, rows)
        } else {
            columns(headers, rows)
        };
        self.bytes(text.as_bytes())
    }

    fn pretty(&self, headers: &[&str], rows: &[Vec<String>]) -> String {
        let mut table = Table::new();
        // A line that is too long is the terminal's to break: cells broken over many lines cannot be read or copied.
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(
            headers
                .iter()
                .map(|header| Cell::new(header).add_attribute(Attribute::Dim)),
        );
        for row in rows {
            table.add_row(row.iter().map(|cell| Cell::new(escape(cell))));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The code of a tone around a text, when `on`.
fn painted(on: bool, tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Dim => "2",
        Tone::Strong => "1",
    };
    if on {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Left-aligned columns two blanks apart; an empty cell is `-`, so that a column's number never changes.
fn columns(headers: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            escape(text).into_owned()
        }
    };
    let mut lines: Vec<Vec<String>> = vec![headers.iter().map(|header| (*header).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()));
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|c| c.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..headers.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Text of a stranger, made harmless: control characters, and those that reorder or hide what is written, become `\u{…}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if is_harmful(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// One line of JSON in which no character can steer a terminal.
pub(crate) fn json_text(value: &Value) -> String {
    let text = value.to_string();
    if !text.chars().any(is_harmful) {
        return text;
    }
    // Outside of strings JSON has none of these, and inside `\uXXXX` means the same.
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
