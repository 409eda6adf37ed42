//! Numbers for people, with their units.

/// `1.5 MiB`.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{} {}", short(value), UNITS[unit])
    }
}

/// `1 234 567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `230 ms`, `1.2 s`.
pub fn millis(value: f64) -> String {
    if value >= 1000.0 {
        format!("{} s", short(value / 1000.0))
    } else {
        format!("{} ms", short(value))
    }
}

/// `12.3 s`, `4 m 05 s`.
pub fn seconds(value: f64) -> String {
    if value < 120.0 {
        return format!("{} s", short(value));
    }
    let whole = value.round() as u64;
    format!("{} m {:02} s", whole / 60, whole % 60)
}

/// Three digits that count.
pub(super) fn short(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
