//! The NATS door of a running node: whatever a client writes, it is answered or cut off, and the next one is served.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let answer = weft_fuzz::say_to_nats(bytes);
    assert!(answer.starts_with(b"INFO {"), "{}", String::from_utf8_lossy(&answer));
    // What comes back is of the protocol, also where it ends with an error.
    let text = String::from_utf8_lossy(&answer);
    for line in text
        .split("\r\n")
        .take_while(|line| !line.starts_with("MSG") && !line.starts_with("HMSG"))
    {
        let known = ["INFO ", "PING", "PONG", "+OK", "-ERR '"];
        assert!(
            line.is_empty() || known.iter().any(|known| line.starts_with(known)),
            "{line:?}"
        );
    }
});
