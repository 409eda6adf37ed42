//! Scenario files of the simulator: read or refused with a place, before anything starts.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match weft_sim::scenario::parse("fuzz.toml", text) {
        Ok(scenario) => {
            let _ = (scenario.nodes(), scenario.quiet_from());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
