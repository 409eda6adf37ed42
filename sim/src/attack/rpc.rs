//! As much of gossip's frames as an attacker needs: to take them apart, and to write a few of its own.
//!
//! Reads protocol buffers without a scheme: what cannot be read ends the reading, and is nobody's harm but the attacker's.

/// Fields of a frame.
pub(super) const SUBSCRIPTIONS: u64 = 1;
pub(super) const PUBLISH: u64 = 2;
pub(super) const CONTROL: u64 = 3;
/// Fields of a control message.
const IHAVE: u64 = 1;
const GRAFT: u64 = 3;
pub(super) const PRUNE: u64 = 4;
const IDONTWANT: u64 = 5;

/// Of a field that has a length.
const LENGTH_DELIMITED: u64 = 2;

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    /// With its number and length.
    pub(super) whole: &'a [u8],
    /// Empty where the field has no length.
    pub(super) payload: &'a [u8],
}

/// A number at the head of `bytes`, and how long it is; `None` where there is none.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

pub(super) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The fields of a message, as far as they can be read.
pub(super) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let (key, key_len) = varint(bytes)?;
        let (payload, len) = match key & 7 {
            0 => (&[][..], key_len + varint(bytes.get(key_len..)?)?.1),
            LENGTH_DELIMITED => {
                let (size, size_len) = varint(bytes.get(key_len..)?)?;
                let start = key_len + size_len;
                let end = start.checked_add(usize::try_from(size).ok()?)?;
                (bytes.get(start..end)?, end)
            }
            _ => return None,
        };
        let (whole, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        Some(Field {
            number: key >> 3,
            whole,
            payload,
        })
    })
}

fn put_field(bytes: &mut Vec<u8>, number: u64, payload: &[u8]) {
    put_varint(bytes, number << 3 | LENGTH_DELIMITED);
    put_varint(bytes, payload.len() as u64);
    bytes.extend_from_slice(payload);
}

/// A frame with its length in front.
fn framed(frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frame.len() + 4);
    put_varint(&mut bytes, frame.len() as u64);
    bytes.extend_from_slice(frame);
    bytes
}

/// A frame with one control message.
fn control(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_field(&mut frame, CONTROL, message);
    framed(&frame)
}

/// Asks to be a neighbour on each of these topics.
pub(super) fn graft<'a>(topics: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut message = Vec::new();
    for topic in topics {
        let mut graft = Vec::new();
        put_field(&mut graft, 1, topic);
        put_field(&mut message, GRAFT, &graft);
    }
    control(&message)
}

/// Says that it has these messages.
pub(super) fn have(topic: &[u8], ids: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut have = Vec::new();
    put_field(&mut have, 1, topic);
    ids.into_iter().for_each(|id| put_field(&mut have, 2, &id));
    let mut message = Vec::new();
    put_field(&mut message, IHAVE, &have);
    control(&message)
}

/// The topics a frame prunes.
pub(super) fn pruned(frame: &[u8]) -> Vec<Vec<u8>> {
    let control = fields(frame).filter(|field| field.number == CONTROL);
    let prunes = control.flat_map(|field| fields(field.payload).filter(|field| field.number == PRUNE));
    prunes.filter_map(|prune| topic(prune.payload, 1)).collect()
}

/// The topics a frame subscribes to, or speaks of in no other way.
pub(super) fn subscribed(frame: &[u8]) -> Vec<Vec<u8>> {
    let subscriptions = fields(frame).filter(|field| field.number == SUBSCRIPTIONS);
    subscriptions.filter_map(|field| topic(field.payload, 2)).collect()
}

fn topic(message: &[u8], number: u64) -> Option<Vec<u8>> {
    let mut found = fields(message).filter(|field| field.number == number);
    found.next().map(|field| field.payload.to_vec())
}

/// The frame, with its length in front, without what an attacker does not send: that it has enough neighbours or copies, and,
/// if it starves others, messages. `None`: nothing is left.
pub(super) fn tampered(frame: &[u8], starves: bool) -> Option<Vec<u8>> {
    let mut left = Vec::new();
    for field in fields(frame) {
        match field.number {
            PUBLISH if starves => {}
            CONTROL => {
                let kept = fields(field.payload).filter(|field| !matches!(field.number, PRUNE | IDONTWANT));
                let message: Vec<u8> = kept.flat_map(|field| field.whole.iter().copied()).collect();
                if !message.is_empty() {
                    put_field(&mut left, CONTROL, &message);
                }
            }
            _ => left.extend_from_slice(field.whole),
        }
    }
    (!left.is_empty()).then(|| framed(&left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prune(topic: &[u8]) -> Vec<u8> {
        let mut prune = Vec::new();
        put_field(&mut prune, 1, topic);
        put_varint(&mut prune, 3 << 3);
        put_varint(&mut prune, 60);
        let mut message = Vec::new();
        put_field(&mut message, PRUNE, &prune);
        message
    }

    #[test]
    fn what_is_pruned_and_subscribed_is_read() {
        let mut frame = Vec::new();
        let mut subscription = Vec::new();
        put_varint(&mut subscription, 1 << 3);
        put_varint(&mut subscription, 1);
        put_field(&mut subscription, 2, b"news");
        put_field(&mut frame, SUBSCRIPTIONS, &subscription);
        put_field(&mut frame, CONTROL, &prune(b"weather"));
        assert_eq!(subscribed(&frame), [b"news".to_vec()]);
        assert_eq!(pruned(&frame), [b"weather".to_vec()]);
        // Half a frame is read as far as it goes.
        assert_eq!(subscribed(&frame[..frame.len() - 1]), [b"news".to_vec()]);
        assert!(pruned(&frame[..frame.len() - 1]).is_empty());
        assert!(pruned(&[0xff; 20]).is_empty() && subscribed(b"").is_empty());
    }

    #[test]
    fn a_tampered_frame_prunes_nobody_and_may_starve() {
        let mut frame = Vec::new();
        put_field(&mut frame, PUBLISH, b"a message");
        let published = frame.clone();
        let mut message = prune(b"news");
        let graft_only = graft([&b"news"[..]]);
        let (_, head) = varint(&graft_only).unwrap();
        let grafted = fields(&graft_only[head..]).next().unwrap();
        message.extend_from_slice(grafted.payload);
        put_field(&mut frame, CONTROL, &message);
        assert_eq!(tampered(&frame, true), Some(graft_only));
        let fed = tampered(&frame, false).unwrap();
        assert!(fed[1..].starts_with(&published));
        assert_eq!(tampered(&published, true), None);
    }
}
