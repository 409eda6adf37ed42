//! `weft-fuzz-seeds FOLDER`: what the targets of `tests/fuzz` begin with, from the samples that the repository has anyway.

use std::{error::Error, fs, path::Path};

use weft_protocol::{
    MeshId, SecretKey,
    merkle::{Hash, leaf_hash, node_hash},
    patterns::event_sourcing::{
        checkpoint::{Checkpoint, Origin},
        fork::Fork,
    },
};

/// Messages of the wire, pinned.
const WIRE: &str = include_str!("../../../protocol/fixtures/wire.txt");

/// By how its name begins, to which target a sample belongs; the first that fits.
const TARGETS: &[(&str, &str)] = &[
    ("ticket", "tickets"),
    ("mesh", "tickets"),
    ("key", "tickets"),
    ("capability", "capabilities"),
    ("token", "capabilities"),
    ("certificate", "certificates"),
    ("signed", "certificates"),
    ("chain", "certificates"),
    ("revocation", "certificates"),
    ("admission", "certificates"),
    ("node-record", "records"),
    ("control", "records"),
    ("hello", "greetings"),
    ("direct-item", "messages"),
    ("direct-lost", "messages"),
    ("direct-taken", "messages"),
    ("direct", "greetings"),
    ("lane", "greetings"),
    ("message", "messages"),
    ("interest", "messages"),
    ("frame", "messages"),
    ("repair", "messages"),
    ("hop", "messages"),
    ("presences", "messages"),
    ("services", "services"),
    ("call", "services"),
    ("answer", "services"),
    ("question", "services"),
    ("stream", "services"),
    ("event-stream", "streams"),
    ("consumer", "streams"),
    ("group", "streams"),
    ("nats", "services"),
    ("blob", "services"),
];

const NATS: &[&str] = &[
    "CONNECT {\"verbose\":true,\"pedantic\":true,\"headers\":true,\"no_responders\":true}\r\nPING\r\n",
    "CONNECT {}\r\nSUB orders.* workers 1\r\nPUB orders.new 5\r\nhello\r\nUNSUB 1 2\r\nPING\r\n",
    "CONNECT {\"headers\":true}\r\nSUB > 2\r\nHPUB a.b r 19 21\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\nPONG\r\n",
    "CONNECT {}\r\nSUB _INBOX.x 9\r\nPUB $SRV.INFO _INBOX.x 0\r\n\r\nPING\r\n",
    "CONNECT {\"headers\":true}\r\nSUB i.* 1\r\nPUB $JS.API.STREAM.CREATE.S i.1 20\r\n{\"subjects\":[\"s.>\"]}\r\nHPUB s.a i.2 34 36\r\nNATS/1.0\r\nNats-Msg-Id: 7\r\nX: y\r\n\r\nhi\r\nPUB $JS.API.STREAM.INFO.S i.3 0\r\n\r\n",
    "CONNECT {\"headers\":true}\r\nSUB i.* 1\r\nPUB $JS.API.CONSUMER.CREATE.S.c i.1 39\r\n{\"config\":{\"name\":\"c\",\"max_deliver\":2}}\r\nPUB $JS.API.CONSUMER.MSG.NEXT.S.c i.2 28\r\n{\"batch\":3,\"no_wait\":true}  \r\nPUB $JS.ACK.S.c.1.1.1.1.1 i.3 4\r\n+ACK\r\n",
    "CONNECT {}\r\nSUB i.* 1\r\nPUB $JS.API.STREAM.MSG.GET.S i.1 9\r\n{\"seq\":1}\r\nPUB $JS.API.DIRECT.GET.S i.2 9\r\n{\"seq\":1}\r\nPUB $JS.API.CONSUMER.LIST.S i.3 0\r\n\r\nPUB $JS.ACK.S.c.1.1.1.1.1 16\r\n-NAK {\"delay\":1}\r\n",
    "CONNECT {}\r\nSUB _INBOX.* 9\r\nPUB nobody _INBOX.1 0\r\n\r\nPING\r\nUNSUB 9\r\n+OK\r\n-ERR 'x'\r\n",
];

const SUBJECTS: &[&str] = &[
    "orders.>\norders.*.new\norders.eu.new",
    ">\n*.b\na.b",
    "$SYS.>\n*\n$SYS.a",
    "a.*.c\na.b.>\na.b.c.d",
];

const CONFIG: &[&str] = &[
    "[node]\nname = \"alpha\"\nroles = [\"worker\"]\n",
    "[api]\nlisten = \"127.0.0.1:0\"\n[nats]\nlisten = \"127.0.0.1:4222\"\n[blobs]\nbytes_max = \"8GiB\"\nkeep = \"1d\"\n",
];

const SQL: &[&str] = &[
    "SELECT data.customer AS customer, count(*) AS n, sum(data.amount) FROM orders WHERE type = 'a' GROUP BY data.customer HAVING count(*) > 1\n{\"type\":\"a\",\"data\":{\"customer\":\"c\",\"amount\":2.5}}\n{\"type\":\"a\",\"data\":{\"customer\":\"c\",\"amount\":\"x\"}}",
    "SELECT date_trunc('day', time) AS day, min(data.n), max(data.n), first(id), last(data->>'n') FROM o GROUP BY 1\n{\"time\":\"2026-11-26T13:14:15Z\",\"id\":\"1\",\"data\":{\"n\":-7}}",
    "SELECT avg(CASE WHEN data.list[-1] IN (1, 'x', NULL) THEN -data.n / 2 ELSE CAST(data['t'] AS integer) END) FILTER (WHERE upper(type) LIKE 'A%_' OR NOT data.n BETWEEN 1 AND 9) AS v FROM o\n{\"type\":\"ab\",\"data\":{\"n\":1,\"t\":\"12\",\"list\":[1]}}",
    "SELECT round(abs(sum(length(trim(substr(data.t, 2, 3) || coalesce(data.u, 'x'))) % 3), 2) FROM o WHERE data.n IS DISTINCT FROM nullif(data.m, 1.0)\n{\"data\":{\"t\":\"abcdef\",\"m\":1}}",
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: weft-fuzz-seeds FOLDER")?;
    let folder = Path::new(&folder);
    for (count, line) in WIRE.lines().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let (Some(name), Some(text)) = (words.first(), words.last()) else {
            continue;
        };
        let Some((_, target)) = TARGETS.iter().find(|(begins, _)| name.starts_with(begins)) else {
            continue;
        };
        // Some samples are text.
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes());
        put(
            folder,
            target,
            &format!("{count}-{name}"),
            &bytes.unwrap_or_else(|_| text.as_bytes().to_vec()),
        )?;
    }
    for (target, texts) in [("nats", NATS), ("subjects", SUBJECTS), ("config", CONFIG), ("sql", SQL)] {
        for (count, text) in texts.iter().enumerate() {
            put(folder, target, &count.to_string(), text.as_bytes())?;
        }
    }
    put(
        folder,
        "config",
        "all",
        weft_node::config::Config::defaults_annotated().as_bytes(),
    )?;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/scenarios"))? {
        let entry = entry?;
        put(
            folder,
            "scenario",
            &entry.file_name().to_string_lossy(),
            &fs::read(entry.path())?,
        )?;
    }
    let every = concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/src/scenario/tests/every.toml");
    put(folder, "scenario", "every", &fs::read(every)?)?;
    put(folder, "streams", "fork", fork()?.as_bytes())?;
    requests(folder)?;
    for kind in 0..5_u8 {
        for file in 0..8_u8 {
            put(
                folder,
                "store",
                &format!("{kind}-{file}"),
                &[file, kind, kind * 3, 200 - file, 1, 2, 3, 4],
            )?;
        }
    }
    Ok(())
}

/// Evidence of a fork: of two records the second was exchanged after both had been signed.
fn fork() -> Result<String, Box<dyn Error>> {
    let key = SecretKey::from_bytes(&[7; 32]);
    let signed = |last: u8| -> Result<(Hash, String), Box<dyn Error>> {
        let root = node_hash(&leaf_hash(&[1]), &leaf_hash(&[last]));
        let origin = Origin {
            mesh: MeshId::from_root(&key.public()),
            stream: "shop.orders".parse()?,
            owner: key.public(),
        };
        let checkpoint = Checkpoint {
            origin,
            size: 2,
            root,
            time_ms: 1_790_000_000_000,
        };
        Ok((root, checkpoint.sign(&key)))
    };
    let ((_, earlier), (root, later)) = (signed(2)?, signed(3)?);
    let fork = Fork {
        earlier,
        later,
        root,
        hashes: Vec::new(),
    };
    fork.verify()?;
    Ok(fork.to_text())
}

/// A request for each route.
fn requests(folder: &Path) -> Result<(), Box<dyn Error>> {
    let document = serde_json::to_value(weft_node::local::openapi())?;
    let paths = document["paths"]
        .as_object()
        .ok_or("no paths in the API's description")?;
    let mut count = 0;
    for (path, methods) in paths {
        for method in methods.as_object().into_iter().flatten().map(|(method, _)| method) {
            let path = path.replace(['{', '}'], "");
            let body = "{\"name\":\"x\",\"ttl\":\"1h\"}";
            let request = format!(
                "{} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                method.to_uppercase(),
                body.len(),
            );
            count += 1;
            put(folder, "http", &count.to_string(), request.as_bytes())?;
        }
    }
    Ok(())
}

fn put(folder: &Path, target: &str, name: &str, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let folder = folder.join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)?;
    Ok(())
}
