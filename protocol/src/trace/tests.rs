use proptest::prelude::*;

use super::*;

const SAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn the_standard_is_read() {
    let parent: TraceParent = SAMPLE.parse().unwrap();
    assert_eq!((parent.trace_id[0], parent.span_id[7], parent.flags), (0x4b, 0xb7, 1));
    assert!(parent.is_sampled());
    assert_eq!(parent.to_string(), SAMPLE);
    let later = format!("cc{}-extra", &SAMPLE[2..]);
    assert_eq!(later.parse(), Ok(parent), "of a later version the known part is used");
}

#[test]
fn what_the_standard_forbids_is_refused() {
    let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
    let zero_span = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16));
    let (upper, version, longer) = (
        SAMPLE.to_uppercase(),
        format!("ff{}", &SAMPLE[2..]),
        format!("{SAMPLE}-00"),
    );
    let glued = format!("cc{}extra", &SAMPLE[2..]);
    let long = format!("cc{}-{}", &SAMPLE[2..], "a".repeat(300));
    let dashes = SAMPLE.replace('-', "_");
    for bad in [
        "",
        "00",
        &SAMPLE[..54],
        &zero_trace,
        &zero_span,
        &upper,
        &version,
        &longer,
        &glued,
        &long,
        &dashes,
    ] {
        assert!(bad.parse::<TraceParent>().is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[0-9a-f-]{50,60}|\\PC{0,70}") {
        if let Ok(parent) = text.parse::<TraceParent>() {
            prop_assert_eq!(parent.to_string().parse(), Ok(parent));
        }
    }

    #[test]
    fn any_ids_round_trip(trace_id in any::<[u8; 16]>(), span_id in any::<[u8; 8]>(), flags in any::<u8>()) {
        prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
        let parent = TraceParent { trace_id, span_id, flags };
        prop_assert_eq!(parent.to_string().parse(), Ok(parent));
    }
}
