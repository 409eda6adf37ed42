//! The client's half of the NATS protocol: bytes to operations, without I/O and without copies.
//!
//! Promises: [`parse`] is total: whatever the bytes, it says which operation stands at their beginning, that more bytes are needed, or
//! what is wrong, and never panics. What it says does not depend on how the bytes were cut into pieces. Nothing is waited for that
//! exceeds a limit: a line or a payload that is announced too long is wrong at once.
//!
//! Not promised: that subjects make sense; that is for whoever acts on them.

#[cfg(test)]
mod tests;

/// What a client may send at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of a line, without its end.
    pub(super) line_bytes_max: usize,
    /// Bytes of headers and payload together.
    pub(super) payload_bytes_max: usize,
}

/// A message as a client publishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    /// Where to.
    pub(super) subject: &'a [u8],
    /// Where answers go.
    pub(super) reply: Option<&'a [u8]>,
    /// The block of headers as it came, from `NATS/1.0` to its empty line; empty when there is none.
    pub(super) headers: &'a [u8],
    /// The payload.
    pub(super) payload: &'a [u8],
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op<'a> {
    /// Who the client is, in JSON.
    Connect(&'a [u8]),
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// `PUB` and `HPUB`.
    Publish(Publish<'a>),
    /// Subscribe.
    Sub {
        /// The pattern.
        subject: &'a [u8],
        /// Its queue group.
        queue: Option<&'a [u8]>,
        /// What the client calls the subscription.
        sid: &'a [u8],
    },
    /// Unsubscribe, at once or after so many messages.
    Unsub {
        /// The subscription.
        sid: &'a [u8],
        /// Messages it is still to have, counted from its beginning.
        max: Option<u64>,
    },
    /// `+OK` or `-ERR` from a client: heard, and without consequence.
    Remark,
}

/// What stands at the beginning of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// An operation, and how many bytes it takes.
    Op(Op<'a>, usize),
    /// Nothing whole yet. The number is how many bytes there will be at least.
    Need(usize),
}

/// Why a client is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseError {
    /// No operation has this name.
    #[error("Unknown Protocol Operation")]
    Unknown,
    /// An operation's arguments make no sense, or its payload does not end where it should.
    #[error("Parser Error")]
    Malformed,
    /// A line is too long.
    #[error("Maximum Control Line Exceeded")]
    Line,
    /// Headers and payload are too long together.
    #[error("Maximum Payload Violation")]
    Payload,
}

/// The longest list of arguments: `HPUB subject reply headers total`.
const ARGUMENTS_MAX: usize = 4;
/// Longer numbers overflow or are nonsense.
const DIGITS_MAX: usize = 9;
/// The names of operations, in upper case.
const NAMES: [&[u8]; 9] = [
    b"PUB", b"HPUB", b"SUB", b"UNSUB", b"PING", b"PONG", b"CONNECT", b"+OK", b"-ERR",
];

/// Reads the operation at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8], limits: Limits) -> Result<Parsed<'_>, ParseError> {
    let searched = &bytes[..bytes.len().min(limits.line_bytes_max + 2)];
    let Some(end) = memchr::memchr(b'\n', searched) else {
        check_beginning(bytes)?;
        return if searched.len() > limits.line_bytes_max + 1 {
            Err(ParseError::Line)
        } else {
            Ok(Parsed::Need(bytes.len() + 1))
        };
    };
    let line = &bytes[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > limits.line_bytes_max {
        return Err(ParseError::Line);
    }
    let name_len = line.iter().position(|b| is_space(*b)).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_len);
    let after = end + 1;
    let done = |op| Ok(Parsed::Op(op, after));
    match name.len() {
        3 if name.eq_ignore_ascii_case(b"PUB") => publish(bytes, after, rest, false, limits),
        4 if name.eq_ignore_ascii_case(b"HPUB") => publish(bytes, after, rest, true, limits),
        3 if name.eq_ignore_ascii_case(b"SUB") => done(subscribe(rest)?),
        5 if name.eq_ignore_ascii_case(b"UNSUB") => done(unsubscribe(rest)?),
        4 if name.eq_ignore_ascii_case(b"PING") => done(Op::Ping),
        4 if name.eq_ignore_ascii_case(b"PONG") => done(Op::Pong),
        7 if name.eq_ignore_ascii_case(b"CONNECT") => done(Op::Connect(rest.trim_ascii())),
        3 if name.eq_ignore_ascii_case(b"+OK") => done(Op::Remark),
        4 if name.eq_ignore_ascii_case(b"-ERR") => done(Op::Remark),
        _ => Err(ParseError::Unknown),
    }
}

/// What cannot become an operation is wrong before its line ends: a browser or a scanner is not listened to any longer.
fn check_beginning(bytes: &[u8]) -> Result<(), ParseError> {
    let name_len = bytes.iter().position(|b| is_space(*b)).unwrap_or(bytes.len());
    let name = &bytes[..name_len];
    let is_whole = name_len < bytes.len();
    // A line that so far is only a name may still be `PING\r`.
    let name = if is_whole {
        name
    } else {
        name.strip_suffix(b"\r").unwrap_or(name)
    };
    let fits = |known: &&[u8]| {
        known.len() >= name.len()
            && known[..name.len()].eq_ignore_ascii_case(name)
            && (!is_whole || known.len() == name.len())
    };
    if NAMES.iter().any(fits) {
        Ok(())
    } else {
        Err(ParseError::Unknown)
    }
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Up to four arguments between blanks.
struct Arguments<'a> {
    list: [&'a [u8]; ARGUMENTS_MAX],
    len: usize,
}

fn arguments(text: &[u8]) -> Result<Arguments<'_>, ParseError> {
    let mut found = Arguments {
        list: [b""; ARGUMENTS_MAX],
        len: 0,
    };
    for word in text.split(|b| is_space(*b)).filter(|word| !word.is_empty()) {
        *found.list.get_mut(found.len).ok_or(ParseError::Malformed)? = word;
        found.len += 1;
    }
    Ok(found)
}

fn number(text: &[u8]) -> Result<u64, ParseError> {
    if text.is_empty() || text.len() > DIGITS_MAX {
        return Err(ParseError::Malformed);
    }
    text.iter().try_fold(0, |sum: u64, digit| match digit {
        b'0'..=b'9' => Ok(sum * 10 + u64::from(digit - b'0')),
        _ => Err(ParseError::Malformed),
    })
}

fn publish<'a>(
    bytes: &'a [u8],
    after: usize,
    rest: &'a [u8],
    has_headers: bool,
    limits: Limits,
) -> Result<Parsed<'a>, ParseError> {
    let Arguments { list, len } = arguments(rest)?;
    let numbers = if has_headers { 2 } else { 1 };
    let reply = match len.checked_sub(numbers) {
        Some(1) => None,
        Some(2) => Some(list[1]),
        _ => return Err(ParseError::Malformed),
    };
    let total = number(list[len - 1])? as usize;
    let headers_len = if has_headers {
        number(list[len - 2])? as usize
    } else {
        0
    };
    if total > limits.payload_bytes_max {
        return Err(ParseError::Payload);
    }
    if headers_len > total {
        return Err(ParseError::Malformed);
    }
    let whole = after + total + 2;
    match bytes.get(after + total..) {
        Some([b'\r', b'\n', ..]) => {}
        Some([] | [b'\r']) | None => return Ok(Parsed::Need(whole)),
        Some(_) => return Err(ParseError::Malformed),
    }
    let message = Publish {
        subject: list[0],
        reply,
        headers: &bytes[after..after + headers_len],
        payload: &bytes[after + headers_len..after + total],
    };
    Ok(Parsed::Op(Op::Publish(message), whole))
}

fn subscribe(rest: &[u8]) -> Result<Op<'_>, ParseError> {
    let Arguments { list, len } = arguments(rest)?;
    let (queue, sid) = match len {
        2 => (None, list[1]),
        3 => (Some(list[1]), list[2]),
        _ => return Err(ParseError::Malformed),
    };
    Ok(Op::Sub {
        subject: list[0],
        queue,
        sid,
    })
}

fn unsubscribe(rest: &[u8]) -> Result<Op<'_>, ParseError> {
    let Arguments { list, len } = arguments(rest)?;
    let max = match len {
        1 => None,
        // Nought means at once, as nats-server has it.
        2 => Some(number(list[1])?).filter(|max| *max > 0),
        _ => return Err(ParseError::Malformed),
    };
    Ok(Op::Unsub { sid: list[0], max })
}
