use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt, time::Duration};

use super::*;
use crate::error::{ErrorKind, Kind};

fn from_file(text: impl AsRef<[u8]>) -> Result<Config, ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, text).unwrap();
    Config::load(&Sources::new().file(path))
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::load(&Sources::new().environment(pairs.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)))))
}

/// The messages, without the folder of the file.
fn complaints(result: Result<Config, ConfigErrors>) -> Vec<String> {
    let errors = result.expect_err("must be refused").0;
    errors
        .iter()
        .map(|e| e.to_string())
        .map(|text| text.rsplit("/config.toml").next().unwrap_or(&text).to_owned())
        .collect()
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(Config::default().validate(), Ok(()));
    assert_eq!(Config::load(&Sources::new()).unwrap(), Config::default());
}

#[test]
fn the_annotated_defaults_name_every_key_and_read_back_as_the_defaults() {
    let text = Config::defaults_annotated();
    assert_eq!(from_file(&text).unwrap(), Config::default(), "{text}");
    for section in Config::default().sections() {
        assert!(text.contains(&format!("\n[{}]\n", section.name())));
        for key in section.keys() {
            let shown = text
                .lines()
                .any(|line| line.trim_start_matches("# ").starts_with(&format!("{} = ", key.name)));
            assert!(shown, "{}.{} is not in\n{text}", section.name(), key.name);
            assert!(!key.doc.is_empty());
        }
    }
}

/// A value of each key that differs from its default, so that no key can be declared without being read.
fn other_value(section: &dyn Section, key: &Key) -> String {
    match section.show(key.name) {
        Some(text) if text == "true" => "false".into(),
        Some(text) if text == "false" => "true".into(),
        Some(text) if text.starts_with('[') && key.expects == Vec::<String>::EXPECTS => "[]".into(),
        Some(text) => text
            .parse::<u32>()
            .map_or_else(|_| "\"\"".into(), |n| (n + 1).to_string()),
        None => "\"/x\"".into(),
    }
}

#[test]
fn every_key_is_read_and_compared() {
    for section in Config::default().sections() {
        for key in section.keys() {
            let mut text = other_value(section, key);
            if key.expects == std::net::SocketAddr::EXPECTS {
                text = "\"127.0.0.1:0\"".into();
            }
            if text == "\"\"" {
                text = match key.expects {
                    e if e == Duration::EXPECTS => "\"7s\"".into(),
                    e if e == ByteSize::EXPECTS => "1234567".into(),
                    e if e == Toggle::EXPECTS && section.show(key.name).as_deref() == Some("\"off\"") => {
                        "\"on\"".into()
                    }
                    e if e == Toggle::EXPECTS => "\"off\"".into(),
                    e if e == LogFormat::EXPECTS => "\"json\"".into(),
                    _ => "\"other\"".into(),
                };
            }
            if text == "[]" && section.show(key.name).as_deref() == Some("[]") {
                text = if section.name() == "mesh" {
                    "[\"/ip4/1.2.3.4/tcp/1\"]".into()
                } else {
                    "[\"other\"]".into()
                };
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), format!("[{}]\n{} = {text}\n", section.name(), key.name)).unwrap();
            let (changed, _) = source::read(&Sources::new().file(file.path()));
            let changes = diff_reload(&Config::default(), &changed);
            let full = format!("{}.{}", section.name(), key.name);
            let expected = match key.effect {
                Effect::Live => Changes {
                    reloadable: vec![full.clone()],
                    needs_restart: vec![],
                },
                Effect::Restart => Changes {
                    reloadable: vec![],
                    needs_restart: vec![full.clone()],
                },
            };
            assert_eq!(changes, expected, "{full} = {text}");
            assert_ne!(changed, Config::default());
            assert_eq!(
                changed.origin(&full),
                &Origin::File {
                    path: file.path().into(),
                    line: 2
                }
            );
        }
    }
}

#[test]
fn the_effective_configuration_says_where_values_come_from_and_reads_back() {
    let config = Config::load(&Sources::new().flag("--mesh-mdns", "mesh.mdns", ["false"])).unwrap();
    let text = config.to_toml();
    assert!(text.contains("# from flag --mesh-mdns\nmdns = false\n"), "{text}");
    assert_eq!(from_file(text).unwrap(), config);
}

#[test]
fn later_sources_win() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, "[mesh]\nmdns = false\nupnp = false\nconnection_target = 7\n").unwrap();
    let environment = [
        ("WEFT__MESH__UPNP", "true"),
        ("WEFT__MESH__CONNECTION_TARGET", "8"),
        ("WEFT_DATA_DIR", "/x"),
        ("PATH", "/bin"),
    ];
    let sources = Sources::new()
        .file(&path)
        .environment(environment.map(|(k, v)| (k.into(), v.into())))
        .flag("--connection-target", "mesh.connection_target", ["9"])
        .flag("--unused", "mesh.listen", Vec::<String>::new());
    let config = Config::load(&sources).unwrap();
    assert!(!config.mesh.mdns);
    assert!(config.mesh.upnp);
    assert_eq!(config.mesh.connection_target, 9);
    assert_eq!(config.origin("mesh.mdns"), &Origin::File { path, line: 2 });
    assert_eq!(
        config.origin("mesh.upnp"),
        &Origin::Environment("WEFT__MESH__UPNP".into())
    );
    assert_eq!(
        config.origin("mesh.connection_target"),
        &Origin::Flag("--connection-target".into())
    );
    assert_eq!(config.origin("mesh.listen"), &Origin::Default);
    assert!(!config.listen_explicit());
}

#[test]
fn a_value_that_equals_the_default_is_still_the_users_choice() {
    let config = from_file("[api]\nlisten = \"127.0.0.1:7480\"\n").unwrap();
    assert!(config.api_listen_explicit());
    assert_eq!(config, Config::default());
}

#[test]
fn durations_sizes_and_lists_in_all_their_forms() {
    let config =
        from_file("[limits]\nmemory_budget_bytes = 0x1000_0000\n[trust]\ncertificate_ttl = \"36h\"\n").unwrap();
    assert_eq!(config.limits.memory_budget_bytes, ByteSize::mib(256));
    assert_eq!(config.trust.certificate_ttl, Duration::from_secs(36 * 3600));
    for listen in [
        "/ip4/0.0.0.0/tcp/1, /ip6/::/tcp/2",
        "[\"/ip4/0.0.0.0/tcp/1\", '/ip6/::/tcp/2']",
    ] {
        let config = from_environment(&[("WEFT__MESH__LISTEN", listen)]).unwrap();
        assert_eq!(
            config.mesh.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/2"]
        );
    }
    assert!(
        from_environment(&[("WEFT__MESH__LISTEN", "")])
            .unwrap()
            .mesh
            .listen
            .is_empty()
    );
    assert_eq!(from_environment(&[("WEFT__NODE__NAME", "")]).unwrap().node.name, None);
}

#[test]
fn durations_and_sizes_read_back_as_written() {
    for (text, ms) in [
        ("0s", 0),
        ("500ms", 500),
        ("30s", 30_000),
        ("15m", 900_000),
        ("1h", 3_600_000),
        ("90d", 7_776_000_000),
    ] {
        assert_eq!(parse_duration(text).map(|d| d.as_millis()), Ok(ms));
        assert_eq!(format_duration(Duration::from_millis(ms as u64)), text);
    }
    for text in [
        "",
        "30",
        "s",
        "-1s",
        "1.5h",
        "1 week",
        "99999999999999999999s",
        "36501d",
        "1S",
        "١s",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    for (text, bytes) in [
        ("0B", 0),
        ("1023B", 1023),
        ("1KiB", 1024),
        ("256MiB", 256 << 20),
        ("16GiB", 16 << 30),
        ("3TiB", 3 << 40),
    ] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        assert_eq!(ByteSize(bytes).to_string(), text);
    }
    for text in ["", "MiB", "-1", "1MB", "1mib", "18446744073709551615KiB", "1.5MiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn unknown_names_are_errors_with_the_nearest_known_one() {
    let text =
        "top = 1\n\n[mesh]\nlistn = []\nconnection_max = 3\n[nod]\n[zzzzzzzz]\n[api]\nmdns = true\nquite_else = 1\n";
    assert_eq!(
        complaints(from_file(text)),
        [
            ":1: unknown key top",
            ":4: unknown key mesh.listn; did you mean mesh.listen?",
            ":5: unknown key mesh.connection_max; did you mean mesh.connections_max?",
            ":6: unknown section [nod]; did you mean node?",
            ":7: unknown section [zzzzzzzz]",
            ":9: unknown key api.mdns; did you mean mesh.mdns?",
            ":10: unknown key api.quite_else",
        ]
    );
    assert_eq!(
        complaints(from_environment(&[
            ("WEFT__MESH__LISTNE", "x"),
            ("WEFT__MESH", "x"),
            ("WEFT__", "x"),
            ("WEFT__MESH__NO\u{1b}[2J", "x")
        ])),
        [
            "environment variable WEFT__MESH__LISTNE: unknown key mesh.listne; did you mean mesh.listen?",
            "environment variable WEFT__MESH: unknown key mesh.",
            "environment variable WEFT__: unknown section []",
            "environment variable \"WEFT__MESH__NO\\u{1b}[2J\": unknown key \"mesh.no\\u{1b}[2j\"",
        ]
    );
}

#[test]
fn all_errors_are_reported_at_once_with_their_lines() {
    let text = "[mesh]\r\nmdns = \"yes\"\r\nconnection_target = -1\r\nlisten = [\"/ip4/0.0.0.0/tcp/1\", \"nonsense\"]\r\nrelay_circuit_duration_max = 5\r\n\
        bootstrap = [\"/ip4/1.2.3.4/tcp/7400\"]\r\n[store]\r\nsegment_bytes = \"1B\"\r\n[telemetry]\r\nlog_format = \"xml\"\r\nlog = \"a=b=c\"\r\n";
    let found = complaints(from_file(text));
    let expected = [
        ":2: mesh.mdns expects true or false, found the string \"yes\"",
        ":3: mesh.connection_target expects a whole number from 0 to 4294967295, found -1",
        ":4: mesh.listen item 2: expects a multiaddress",
        ":5: mesh.relay_circuit_duration_max expects a duration such as \"30s\" (ms, s, m, h, d), found the number 5",
        ":10: telemetry.log_format expects \"text\" or \"json\", found \"xml\"",
        ":6: mesh.bootstrap must end in /p2p/ID",
        ":8: store.segment_bytes must be from 64KiB to 16GiB, not 1B",
        ":11: telemetry.log is not a log filter",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} is not {expected}");
    }
}

#[test]
fn contradictions_are_errors() {
    for (text, complaint) in [
        (
            "[mesh]\nconnections_max = 10",
            "mesh.connection_target must not be more than mesh.connections_max (10)",
        ),
        (
            "[mesh]\nconnection_target = 2000",
            "mesh.connection_target must not be more than mesh.connections_max (1024)",
        ),
        (
            "[api]\nlisten = \"0.0.0.0:7480\"",
            "api.listen must be a loopback address",
        ),
        (
            "[api]\nsocket = \"run/api.sock\"",
            "api.socket must be an absolute path",
        ),
        ("[api]\norigins = [\"*\"]", "api.origins has \"*\""),
        ("[api]\norigins = [\"https://a/b\"]", "api.origins has \"https://a/b\""),
        ("[api]\nhosts = [\"evil:80\"]", "api.hosts has \"evil:80\""),
        (
            "[api]\nheader_bytes_max = \"1KiB\"",
            "api.header_bytes_max must be from 8KiB",
        ),
        (
            "[store]\ncache_bytes = \"1GiB\"",
            "store.cache_bytes must not be more than limits.memory_budget_bytes (256MiB)",
        ),
        (
            "[trust]\ncertificate_ttl = \"5ms\"",
            "trust.certificate_ttl must be from 1s to 3650d, not 5ms",
        ),
        ("[node]\nname = \"\"", "node.name is not a name"),
        ("[node]\nzone = \"EU\"", "node.zone is not a name"),
        (
            "[mesh]\nlisten = [\"/ip4/0.0.0.0/tcp/1\", \"/ip4/0.0.0.0/tcp/1\"]",
            "mesh.listen names /ip4/0.0.0.0/tcp/1 twice",
        ),
    ] {
        let found = complaints(from_file(text));
        assert!(found.iter().any(|line| line.contains(complaint)), "{text}: {found:?}");
    }
    let fine = "[api]\nlisten = \"0.0.0.0:1\"\nremote = true\nhosts = [\"weft.lan\", \"[::2]\"]\norigins = [\"https://a.b:8443\", \"http://[::1]\"]";
    assert!(from_file(fine).is_ok());
}

#[test]
fn files_of_any_sort_give_an_error_or_a_configuration() {
    assert_eq!(from_file("").unwrap(), Config::default());
    assert!(!from_file(b"\xef\xbb\xbf[mesh]\r\nmdns = false\r\n").unwrap().mesh.mdns);
    for (bytes, complaint) in [
        (b"[mesh]\nmdns = \xff".to_vec(), ": line 2 is not valid UTF-8"),
        (b"[mesh]\nmdns = true\nmdns = false".to_vec(), ":3:1: duplicate key"),
        (b"[mesh]\nmdns = \n".to_vec(), ":2:"),
        (b"mesh = 3".to_vec(), ":1: mesh expects a table, [mesh]"),
        (b"[[mesh]]\nmdns = true".to_vec(), ":1: mesh expects a table, [mesh]"),
        (
            b"[mesh.mdns]\n".to_vec(),
            ":1: mesh.mdns expects true or false, found a table",
        ),
        (b"\0\0\0".to_vec(), ":1:"),
        ([b"a = ".to_vec(), vec![b'['; 1_000_000]].concat(), ":1:"),
        ([b"a".to_vec(), b".a".repeat(500_000), b" = 1".to_vec()].concat(), ":1"),
        (vec![b'#'; (1 << 20) + 1], " is larger than 1048576 bytes"),
    ] {
        let found = complaints(from_file(&bytes));
        assert!(found[0].starts_with(complaint), "{found:?} is not {complaint}");
        assert!(found.iter().all(|line| line.len() < 400), "{found:?}");
    }
    assert_eq!(
        from_file([b"#".repeat((1 << 20) - 1), b"\n".to_vec()].concat()).unwrap(),
        Config::default()
    );
}

#[test]
fn a_named_file_must_exist_and_be_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("config.toml");
    let errors = Config::load(&Sources::new().file(&missing)).unwrap_err();
    assert!(matches!(errors.0[..], [ConfigError::Unreadable { missing: true, .. }]));
    assert_eq!(errors.kind(), ErrorKind::Invalid);
    assert!(Config::load(&Sources::new().file_if_present(&missing)).is_ok());
    let errors = Config::load(&Sources::new().file_if_present(dir.path())).unwrap_err();
    assert!(matches!(errors.0[..], [ConfigError::Unreadable { missing: false, .. }]));
    // A device without end is cut off, not read to memory's end.
    assert!(matches!(
        Config::load(&Sources::new().file("/dev/zero")).unwrap_err().0[..],
        [ConfigError::TooLarge { .. }]
    ));
}

#[test]
fn a_variable_that_is_not_text_is_an_error() {
    let sources = Sources::new().environment([("WEFT__NODE__NAME".into(), OsString::from_vec(vec![0xff]))]);
    assert_eq!(
        complaints(Config::load(&sources)),
        ["environment variable WEFT__NODE__NAME: node.name expects valid UTF-8"]
    );
}

#[test]
fn a_wrong_flag_names_the_flag() {
    let sources = Sources::new().flag("--listen", "mesh.listen", ["/ip4/0.0.0.0/tcp/1", "tcp:1"]);
    let found = complaints(Config::load(&sources));
    assert!(
        found[0].starts_with("flag --listen: mesh.listen expects a multiaddress"),
        "{found:?}"
    );
}

#[test]
fn what_changes_on_reload_and_what_does_not() {
    let new = from_file(
        "[mesh]\nmdns = false\nbootstrap = [\"/ip4/1.2.3.4/tcp/1\"]\ninsecure_bootstrap = true\n[telemetry]\nlog = \"debug\"\n[api]\nlisten = \"127.0.0.1:1\"",
    )
    .unwrap();
    assert_eq!(diff_reload(&new, &new), Changes::default());
    assert_eq!(
        diff_reload(&Config::default(), &new),
        Changes {
            reloadable: vec!["mesh.bootstrap".into(), "telemetry.log".into()],
            needs_restart: vec![
                "mesh.insecure_bootstrap".into(),
                "mesh.mdns".into(),
                "api.listen".into()
            ],
        }
    );
}

#[test]
fn a_reload_leaves_what_needs_a_restart_and_tells_it_again() {
    let new = from_file("[mesh]\nmdns = false\n[telemetry]\nlog = \"debug\"\n[api]\nhosts = [\"weft.lan\"]").unwrap();
    let mut running = Config::default();
    running.take_reloadable(&new);
    assert!(running.mesh.mdns, "it still answers on the local network");
    assert_eq!(running.telemetry.log, "debug");
    assert_eq!(running.api.hosts, ["weft.lan"]);
    assert!(running.is_explicit("telemetry.log") && !running.is_explicit("mesh.mdns"));
    let again = diff_reload(&running, &new);
    assert_eq!(
        again,
        Changes {
            reloadable: vec![],
            needs_restart: vec!["mesh.mdns".into()]
        }
    );
    running.take_reloadable(&Config::default());
    assert_eq!(running, Config::default());
    assert!(!running.is_explicit("telemetry.log"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in ".{0,400}") {
        let _ = from_file(format!("[mesh]\nlisten = {text}"));
        let _ = from_file(&text);
        let _ = from_environment(&[("WEFT__MESH__LISTEN", &text.replace('\0', ""))]);
    }
}
