//! Reads protobuf fields where they lie, without memory of their own: for what is read of a million messages at a start.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::error::WireError;

/// What stands in one field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a> {
    what: &'static str,
    content: Content<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A form that no field of ours has.
    Other,
}

impl<'a> Value<'a> {
    pub(crate) const fn number(self) -> Result<u64, WireError> {
        match self.content {
            Content::Number(number) => Ok(number),
            _ => Err(malformed(self.what)),
        }
    }

    /// A number of 32 bits; as everywhere in protobuf, what is above them does not count.
    pub(crate) fn number_32(self) -> Result<u32, WireError> {
        Ok((self.number()? & u64::from(u32::MAX)) as u32)
    }

    pub(crate) const fn bytes(self) -> Result<&'a [u8], WireError> {
        match self.content {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err(malformed(self.what)),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed(self.what))
    }
}

const fn malformed(what: &'static str) -> WireError {
    WireError::Malformed { what, why: "it is not protobuf of the right shape" }
}

/// The fields of a message, in their order: number and value.
pub(crate) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) const fn of(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    fn skip(&mut self, bytes: u64) -> Result<&'a [u8], WireError> {
        let end = usize::try_from(bytes).map_err(|_| malformed(self.what))?;
        let (skipped, rest) = self.rest.split_at_checked(end).ok_or_else(|| malformed(self.what))?;
        self.rest = rest;
        Ok(skipped)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let (number, kind) = decode_key(&mut self.rest).map_err(|_| malformed(self.what))?;
        let varint = |rest: &mut &'a [u8]| decode_varint(rest).map_err(|_| malformed(self.what));
        let content = match kind {
            WireType::Varint => Content::Number(varint(&mut self.rest)?),
            WireType::LengthDelimited => {
                let bytes = varint(&mut self.rest)?;
                Content::Bytes(self.skip(bytes)?)
            }
            WireType::ThirtyTwoBit => self.skip(4).map(|_| Content::Other)?,
            WireType::SixtyFourBit => self.skip(8).map(|_| Content::Other)?,
            WireType::StartGroup | WireType::EndGroup => return Err(malformed(self.what)),
        };
        Ok((number, Value { what: self.what, content }))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}
