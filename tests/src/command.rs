//! Running one command of `weft` to its end.

use std::{
    ffi::OsStr,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// No command of these tests has a reason to take longer.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(90);

/// The binary under test: `WEFT_BIN`, else the `weft` in the target dir this test lies in.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WEFT_BIN") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().unwrap();
    let found = own
        .ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join("weft"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no `weft` near {}: build it with `cargo build -p weft-node`, or set WEFT_BIN",
            own.display()
        )
    })
}

/// A command of `weft` that sees nothing of the surroundings of the test.
pub fn command(home: &Path) -> Command {
    alone(home, Command::new(binary()))
}

/// The same in the control group to which `processes` belongs.
pub fn command_in(home: &Path, processes: &Path) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#"echo $$ >"$0" && exec "$@""#]);
    shell.arg(processes).arg(binary());
    alone(home, shell)
}

fn alone(home: &Path, mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["WEFT", "OTEL_", "XDG_", "CREDENTIALS_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
            && text != "WEFT_BIN"
        {
            command.env_remove(&name);
        }
    }
    command.env("HOME", home).env("NO_COLOR", "1").current_dir(home);
    command
}

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
    shown: String,
}

impl Outcome {
    /// The standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.describe());
        self.text()
    }

    /// The one JSON value that a command which must have succeeded printed.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.ok();
        serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.describe()))
    }

    /// The JSON values, one a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let text = self.ok();
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
        text.lines().map(parse).collect()
    }

    /// The standard error of a command that must have failed with `code`, and printed no data.
    #[track_caller]
    pub fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}", self.describe());
        assert!(
            self.stderr.contains("weft:") || self.stderr.contains("error:"),
            "no words: {}",
            self.describe()
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.describe());
        &self.stderr
    }

    /// Fails with `code`, and each of `words` is in the message.
    #[track_caller]
    pub fn fails_saying(&self, code: i32, words: &[&str]) {
        let said = self.fails(code).to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "`{word}` is not said: {}",
                self.describe()
            );
        }
    }

    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// For the message of a failed assertion.
    pub fn describe(&self) -> String {
        let Outcome {
            code, stderr, shown, ..
        } = self;
        format!(
            "`{shown}` ended with {code:?}\nstdout: {}\nstderr: {stderr}",
            self.text()
        )
    }
}

/// Runs `weft --data-dir DATA_DIR ARGS…` without input.
pub fn weft<A: AsRef<OsStr>>(home: &Path, data_dir: &Path, args: &[A]) -> Outcome {
    weft_with_input(home, data_dir, args, b"")
}

/// Runs a command and gives it `input`.
pub fn weft_with_input<A: AsRef<OsStr>>(home: &Path, data_dir: &Path, args: &[A], input: &[u8]) -> Outcome {
    let mut command = command(home);
    command.arg("--data-dir").arg(data_dir).args(args);
    run(command, input)
}

/// Runs any command to its end.
///
/// # Panics
/// When it does not end.
pub fn run(mut command: Command, input: &[u8]) -> Outcome {
    let shown = shown(&command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start `{shown}`: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that does not read its input closes the pipe: no failure of the test.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let code = wait(&mut child, &shown);
    feeder.join().unwrap();
    let stderr = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
    Outcome {
        code,
        stdout: stdout.join().unwrap(),
        stderr,
        shown,
    }
}

fn shown(command: &Command) -> String {
    let args = command
        .get_args()
        .skip_while(|a| *a == "--data-dir")
        .map(|a| a.to_string_lossy().into_owned());
    let text = args.collect::<Vec<_>>().join(" ");
    let short: String = text.chars().take(200).collect();
    format!("weft {short}")
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    })
}

fn wait(child: &mut Child, shown: &str) -> Option<i32> {
    let deadline = Instant::now() + COMMAND_TIME_MAX;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("`{shown}` did not end within {} s", COMMAND_TIME_MAX.as_secs());
        }
        thread::sleep(Duration::from_millis(5));
    }
}
