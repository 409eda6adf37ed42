//! JSON in CBOR, as text.

use minicbor::{Decoder, Encoder, decode::Error, encode::Error as EncodeError, encode::Write};
use serde_json::Value;

pub(super) fn encode<C, W: Write>(value: &Value, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
    e.str(&value.to_string())?.ok()
}

pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Value, Error> {
    let at = d.position();
    serde_json::from_str(d.str()?).map_err(|_| Error::message("it is no JSON").at(at))
}

/// A list of values.
pub(super) mod list {
    use super::{Decoder, EncodeError, Encoder, Error, Value, Write};

    pub(in super::super) fn encode<C, W: Write>(
        list: &[Value],
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        super::encode(&Value::Array(list.to_vec()), e, context)
    }

    pub(in super::super) fn decode<C>(d: &mut Decoder<'_>, context: &mut C) -> Result<Vec<Value>, Error> {
        let at = d.position();
        match super::decode(d, context)? {
            Value::Array(list) => Ok(list),
            _ => Err(Error::message("it is no list").at(at)),
        }
    }
}
