//! Reads fields off the front of a payload: fixed-width big-endian numbers, lengths before bytes.

use bytes::{Buf, Bytes};
use clocks::{LogPosition, NodeId, Term};
use std::fmt;

/// Why a payload is not what its kind says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// It ends within this field.
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// Bytes follow its end.
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A tag has no meaning in this version.
    UnknownTag {
        /// The field.
        field: &'static str,
        /// Its value.
        tag: u8,
    },
    /// A field has a value that no sender gives it.
    Invalid {
        /// The field.
        field: &'static str,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated { field } => write!(f, "the message ends within {field}"),
            DecodeError::Trailing { bytes } => write!(f, "{bytes} bytes follow the message's end"),
            DecodeError::UnknownTag { field, tag } => write!(f, "{field} {tag} is unknown"),
            DecodeError::Invalid { field } => write!(f, "{field} has an impossible value"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// The rest of a payload.
pub(super) struct Cursor {
    rest: Bytes,
}

impl Cursor {
    pub(super) fn new(payload: Bytes) -> Cursor {
        Cursor { rest: payload }
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| DecodeError::Truncated { field })
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.rest.try_get_u16().map_err(|_| DecodeError::Truncated { field })
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.rest.try_get_u32().map_err(|_| DecodeError::Truncated { field })
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.rest.try_get_u64().map_err(|_| DecodeError::Truncated { field })
    }

    pub(super) fn u128(&mut self, field: &'static str) -> Result<u128, DecodeError> {
        self.rest.try_get_u128().map_err(|_| DecodeError::Truncated { field })
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::UnknownTag { field, tag }),
        }
    }

    pub(super) fn node(&mut self, field: &'static str) -> Result<NodeId, DecodeError> {
        Ok(NodeId(self.u64(field)?))
    }

    pub(super) fn position(&mut self, field: &'static str) -> Result<LogPosition, DecodeError> {
        let term = Term(self.u64(field)?);
        Ok(LogPosition::new(term, self.u64(field)?))
    }

    /// A length and so many bytes, as a slice of the payload.
    pub(super) fn bytes(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.u32(field)?;
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(self.rest.split_to(length)),
            _ => Err(DecodeError::Truncated { field }),
        }
    }

    /// A count of at most `max` items of at least `item_bytes` each; what cannot follow is refused
    /// before anything is allocated for it.
    pub(super) fn count(
        &mut self,
        field: &'static str,
        item_bytes: usize,
        max: usize,
    ) -> Result<usize, DecodeError> {
        match usize::try_from(self.u32(field)?) {
            Ok(count) if count > max => Err(DecodeError::Invalid { field }),
            Ok(count) if count <= self.rest.len() / item_bytes => Ok(count),
            _ => Err(DecodeError::Truncated { field }),
        }
    }

    /// Whatever is left.
    pub(super) fn rest(self) -> Bytes {
        self.rest
    }

    /// Everything must have been used up.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }
}
