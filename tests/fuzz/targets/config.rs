//! `config.toml`: what is read is valid, can be shown, and is then read as the same; what is not is told with its place.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use weft_node::config::{Config, Sources};

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

/// Without the remarks on where each comes from.
fn settings(config: &Config) -> Vec<String> {
    let shown = config.to_toml();
    shown
        .lines()
        .filter(|line| !line.starts_with("# from "))
        .map(ToOwned::to_owned)
        .collect()
}

fuzz_target!(|bytes: &[u8]| {
    let read = |bytes: &[u8]| {
        let path = DIR.path().join("config.toml");
        std::fs::write(&path, bytes).expect("it can be written");
        Config::load(&Sources::new().file(path))
    };
    match read(bytes) {
        Ok(config) => {
            let shown = config.to_toml();
            let again = read(shown.as_bytes()).unwrap_or_else(|error| panic!("{shown}\nis not read again: {error}"));
            assert_eq!(settings(&again), settings(&config));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
