//! What the README and the documents tell people to type is understood by the command line.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use clap::Parser as _;
use weft_node::cli::Cli;

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The `weft …` commands of a document, each as the words a shell would make of it: those to type, in its shell blocks, and
/// those its sentences speak of.
fn commands(text: &str) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let (mut typed, mut told) = (Vec::new(), Vec::new());
    let mut in_shell = false;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            in_shell = !in_shell && matches!(language, "sh" | "console");
        } else if in_shell {
            typed.extend(split(line));
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            told.extend(spans.filter(|span| span.starts_with("weft ")).flat_map(split));
        }
    }
    (typed, told)
}

/// The commands of one line that begin with `weft`, behind a pipe or in a substitution too.
fn split(line: &str) -> Vec<Vec<String>> {
    let line = line.trim().trim_start_matches("$ ");
    let mut commands = vec![Vec::new()];
    let mut word = String::new();
    let mut quote = None;
    let mut last = ' ';
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '#') if last == ' ' => break,
            (None, '|' | ';' | '&' | '>' | '<') => {
                end(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            (None, ' ') => end(&mut word, &mut commands),
            (None, c) => word.push(c),
        }
        last = c;
    }
    end(&mut word, &mut commands);
    let is_ours = |words: &Vec<String>| words.first().is_some_and(|w| w == "weft" || w.ends_with("/weft"));
    let mut ours: Vec<Vec<String>> = commands.into_iter().filter(is_ours).collect();
    // What stands in `$(…)` is a command of its own.
    if let Some((inner, _)) = line.split_once("$(").and_then(|(_, rest)| rest.split_once(')')) {
        ours.extend(split(inner));
    }
    ours
}

fn end(word: &mut String, commands: &mut [Vec<String>]) {
    if let (false, Some(last)) = (word.is_empty(), commands.last_mut()) {
        last.push(std::mem::take(word));
    }
}

fn check(name: &str) -> usize {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument};
    let (typed, told) = commands(&read(name));
    for words in &typed {
        if let Err(error) = Cli::try_parse_from(words) {
            assert!(error.kind() == DisplayHelp, "{name}: {}\n{error}", words.join(" "));
        }
    }
    for words in &told {
        if let Err(error) = Cli::try_parse_from(words) {
            // A sentence may name a command without all that belongs to it.
            let is_short = matches!(
                error.kind(),
                DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | MissingRequiredArgument
            );
            assert!(is_short, "{name}: {}\n{error}", words.join(" "));
        }
    }
    typed.len() + told.len()
}

#[test]
fn every_command_of_the_readme_is_understood() {
    let count = check("README.md");
    assert!(count >= 25, "only {count} commands were found in the README");
}

#[test]
fn every_command_of_the_documents_is_understood() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut count = 0;
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            count += check(&format!("docs/{name}"));
        }
    }
    count += check("CHANGELOG.md") + check("ARCHITECTURE.md");
    assert!(count >= 15, "only {count} commands were found in the documents");
}

#[test]
fn a_line_is_split_as_a_shell_would() {
    let words = |line: &str| split(line).into_iter().map(|w| w.join("·")).collect::<Vec<_>>();
    assert_eq!(
        words("$ weft serve greet --exec 'sed s/a b/c/'"),
        ["weft·serve·greet·--exec·sed s/a b/c/"]
    );
    assert_eq!(words("echo x | weft call greet   # says x"), ["weft·call·greet"]);
    assert_eq!(words("ssh b weft run --join \"$(weft invite)\""), ["weft·invite"]);
    assert_eq!(words("cat weft"), Vec::<String>::new());
    assert!(
        Cli::try_parse_from(["weft", "frobnicate"]).is_err(),
        "what is not understood is found"
    );
}

#[test]
fn the_files_the_readme_points_to_are_there() {
    let readme = read("README.md");
    let mut count = 0;
    for target in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !target.starts_with("http") && !target.starts_with('#') {
            count += 1;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(target);
            assert!(path.exists(), "the README points to {target}, which is not there");
        }
    }
    assert!(count >= 4, "only {count} links");
}
