//! The key's passphrase: typed at a terminal, and from files where nobody sits at one.

use std::path::PathBuf;

use weft_tests::{Node, Outcome, Terminal, command};

const ASKED: &str = ": ";

fn at_terminal(node: &Node, args: &[&str]) -> Terminal {
    let mut line = command::command(node.home());
    line.arg("--data-dir").arg(node.data_dir()).args(args);
    Terminal::start(&line)
}

fn is_protected(node: &Node) -> bool {
    let bytes = std::fs::read(node.data_dir().join("node.key")).unwrap();
    !String::from_utf8_lossy(&bytes).contains("weft-ed25519-secret")
}

#[track_caller]
fn ends(mut terminal: Terminal, code: i32, words: &str, secrets: &[&str]) {
    assert_eq!(terminal.ends(), Some(code), "{}", terminal.shown());
    let shown = terminal.shown();
    assert!(shown.contains(words), "{shown}");
    assert!(terminal.echoes(), "the terminal is left as it was");
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}

#[test]
fn a_passphrase_is_set_changed_and_removed_at_a_terminal() {
    let alpha = Node::new("alpha");
    let id = alpha.run(&["init", "--name", "alpha", "--json"]).json()["peer_id"].clone();
    let shows_id = |passphrase: &str| {
        let mut terminal = at_terminal(&alpha, &["id", "show"]);
        terminal.answers_unseen(ASKED, passphrase);
        let code = terminal.ends();
        let shown = terminal.shown();
        assert!(!shown.contains(passphrase), "{shown}");
        code == Some(0) && shown.contains(id.as_str().unwrap())
    };
    // Typed twice, and not twice the same.
    let mut terminal = at_terminal(&alpha, &["id", "passphrase"]);
    terminal.answers_unseen("New passphrase: ", "correct horse");
    terminal.answers_unseen("The same again: ", "correct house");
    ends(terminal, 2, "not the same", &["horse", "house"]);
    assert!(!is_protected(&alpha));
    let mut terminal = at_terminal(&alpha, &["id", "passphrase"]);
    terminal.answers_unseen("New passphrase: ", "");
    ends(terminal, 2, "empty", &[]);
    assert!(!is_protected(&alpha));
    // Set.
    let mut terminal = at_terminal(&alpha, &["id", "passphrase"]);
    terminal.answers_unseen("New passphrase: ", "correct horse");
    terminal.answers_unseen("The same again: ", "correct horse");
    ends(terminal, 0, "is protected", &["horse"]);
    assert!(is_protected(&alpha) && shows_id("correct horse") && !shows_id("battery staple"));
    // Changed: by who knows the old one, and nobody else.
    let mut terminal = at_terminal(&alpha, &["id", "passphrase"]);
    terminal.answers_unseen(ASKED, "wrong horse");
    ends(terminal, 4, "passphrase", &["horse"]);
    assert!(shows_id("correct horse"));
    let mut terminal = at_terminal(&alpha, &["id", "passphrase"]);
    terminal.answers_unseen(ASKED, "correct horse");
    terminal.answers_unseen("New passphrase: ", "battery staple");
    terminal.answers_unseen("The same again: ", "battery staple");
    ends(terminal, 0, "is protected", &["horse", "staple"]);
    assert!(shows_id("battery staple") && !shows_id("correct horse"));
    // Removed.
    let mut terminal = at_terminal(&alpha, &["id", "passphrase", "--remove"]);
    terminal.answers_unseen(ASKED, "battery staple");
    ends(terminal, 0, "no longer", &["staple"]);
    assert!(!is_protected(&alpha));
    assert!(alpha.run(&["id", "show"]).ok().contains(id.as_str().unwrap()));
}

#[test]
fn a_passphrase_is_set_and_changed_from_files() {
    let alpha = Node::new("alpha");
    alpha.run(&["init", "--name", "alpha"]).ok();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = alpha.home().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let (first, second) = (file("first", "correct horse\n"), file("second", "battery staple\n"));
    let run = |old: Option<&PathBuf>, new: Option<&PathBuf>, args: &[&str]| -> Outcome {
        let mut line = command::command(alpha.home());
        line.arg("--data-dir").arg(alpha.data_dir()).args(args);
        for (name, path) in [("WEFT_PASSPHRASE_FILE", old), ("WEFT_NEW_PASSPHRASE_FILE", new)] {
            if let Some(path) = path {
                line.env(name, path);
            }
        }
        command::run(line, b"")
    };
    // In a session without a terminal: what is missing is named.
    let mut alone = std::process::Command::new("setsid");
    alone
        .arg("--wait")
        .arg(command::binary())
        .arg("--data-dir")
        .arg(alpha.data_dir());
    alone.args(["id", "passphrase"]).env("HOME", alpha.home());
    command::run(alone, b"").fails_saying(2, &["WEFT_NEW_PASSPHRASE_FILE"]);
    run(None, Some(&first), &["id", "passphrase"]).ok();
    assert!(is_protected(&alpha));
    run(Some(&second), Some(&second), &["id", "passphrase"]).fails(4);
    run(Some(&first), Some(&second), &["id", "passphrase"]).ok();
    run(Some(&first), None, &["id", "show"]).fails(4);
    run(Some(&second), None, &["id", "show"]).ok();
    let backup = run(Some(&second), Some(&first), &["id", "export", "--passphrase"]).ok();
    assert!(!backup.contains("weft-ed25519-secret"), "{backup}");
    run(
        Some(&second),
        Some(&alpha.home().join("nowhere")),
        &["id", "passphrase"],
    )
    .fails(3);
    run(Some(&second), Some(&file("empty", "\n")), &["id", "passphrase"]).fails(2);
    run(Some(&second), None, &["id", "show"]).ok();
    run(Some(&second), None, &["id", "passphrase", "--remove"]).ok();
    assert!(!is_protected(&alpha));
}
