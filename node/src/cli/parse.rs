//! From the words of a command line to checked values: durations, sizes, `key=value`, `name:value`, service names.
//!
//! Every function is total: bad input is an error that says what a good one looks like.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// Longest duration accepted: a hundred years.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// `500ms`, `30s`, `5m`, `1h`, `90d`, `2w`, or several in a row (`1h30m`).
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let help = || format!("`{text}` is not a duration; write for example 500ms, 30s, 5m, 1h30m or 90d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(help());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(help)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit_ms: u64 = match unit.trim() {
            "ms" => 1,
            "s" | "sec" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(help()),
        };
        let number: u64 = number.parse().map_err(|_| help())?;
        let part = number
            .checked_mul(unit_ms)
            .map(Duration::from_millis)
            .ok_or_else(help)?;
        total = total.checked_add(part).ok_or_else(help)?;
        rest = tail;
    }
    if total > DURATION_MAX {
        return Err(format!("`{text}` is longer than a hundred years"));
    }
    Ok(total)
}

/// A duration above zero.
pub(crate) fn duration_positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("the duration must be longer than zero".to_owned()),
        span => Ok(span),
    }
}

/// `65536`, `64KiB`, `256MiB`, `1GiB`, or decimal `10MB`: bytes.
pub(crate) fn size_bytes(text: &str) -> Result<u64, String> {
    let help = || format!("`{text}` is not a size; write for example 65536, 64KiB, 256MiB or 1GiB");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(help()),
    };
    let number: u64 = number.parse().map_err(|_| help())?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(help)
}

/// `key=value`, both sides non-empty on the left and free of control characters.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not of the form key=value"))?;
    if key.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("`{}` is not of the form key=value", text.escape_debug()));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A header of a call or an extension of a message, `name:value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// The name as the API wants it, `weft-header-…`.
    pub(crate) name: HeaderName,
    /// The value.
    pub(crate) value: HeaderValue,
}

/// `name:value`; blanks around the value are dropped.
pub(crate) fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("`{text}` is not of the form name:value"))?;
    let name = HeaderName::from_bytes(format!("weft-header-{}", name.trim()).as_bytes())
        .ok()
        .filter(|_| !name.trim().is_empty())
        .ok_or_else(|| {
            format!(
                "`{}` is not a header name: letters, digits and `-` only",
                name.escape_debug()
            )
        })?;
    let value = HeaderValue::from_bytes(value.trim().as_bytes())
        .map_err(|_| "a header value has no control characters".to_owned())?;
    Ok(Header { name, value })
}

/// A service and, when a `@` or `/` follows, which versions of it and which of its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The service's name.
    pub(crate) service: String,
    /// Which versions will do.
    pub(crate) version: Option<String>,
    /// The endpoint, if one was named.
    pub(crate) endpoint: Option<String>,
}

/// `NAME`, `NAME/ENDPOINT`, `NAME@VERSION` or `NAME@VERSION/ENDPOINT`.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    let (service, endpoint) = match text.split_once('/') {
        Some((service, endpoint)) => (service, Some(endpoint)),
        None => (text, None),
    };
    let (service, version) = match service.split_once('@') {
        Some((service, version)) => (service, Some(version)),
        None => (service, None),
    };
    let version = version.map(|version| {
        let read = semver::VersionReq::parse(version);
        read.map(|_| version.to_owned())
            .map_err(|error| format!("`{}` says no versions, as ^1.2 does: {error}", version.escape_debug()))
    });
    Ok(Target {
        service: service_name(service)?,
        version: version.transpose()?,
        endpoint: endpoint.map(endpoint_name).transpose()?,
    })
}

/// The name of an endpoint: as a service's, with dots between groups.
pub(crate) fn endpoint_name(text: &str) -> Result<String, String> {
    text.split('.').try_for_each(|part| service_name(part).map(drop))?;
    if text.len() > 64 {
        return Err(format!("`{}` is longer than 64 characters", text.escape_debug()));
    }
    Ok(text.to_owned())
}

/// `FILE`, or `ENDPOINT=FILE`.
pub(crate) fn schema(text: &str) -> Result<(Option<String>, std::path::PathBuf), String> {
    match text.split_once('=') {
        Some((endpoint, file)) if endpoint_name(endpoint).is_ok() => Ok((Some(endpoint.to_owned()), file.into())),
        _ => Ok((None, text.into())),
    }
}

/// The name of a service or a part of an endpoint's: letters, digits, `_` and `-`, at most 64.
pub(crate) fn service_name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len());
    if fits
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{}` is not a service name: 1 to 64 letters, digits, `_` or `-`",
        text.escape_debug()
    ))
}

/// Text for one segment of a path or one value of a query.
pub(crate) fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    // A segment of dots alone would be resolved away by whoever normalises the path.
    if matches!(encoded.as_str(), "." | "..") {
        encoded.replace('.', "%2E")
    } else {
        encoded
    }
}

/// Milliseconds of a duration, for a JSON field or a header.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
/// How many copies a stream has.
pub(super) fn label(text: &str) -> Result<String, String> {
    key_value(text).map(|(key, value)| format!("{key}={value}"))
}

pub(super) fn replicas(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err("a stream has 1, 3 or 5 copies".to_owned()),
    }
}
