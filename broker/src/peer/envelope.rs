//! Calls and replies as they share frames: what each is stands in the header of the frame, and
//! their bytes follow each other in its payload.

use bytes::Bytes;
use flumen_protocol::frame::{FrameLimits, decode_header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{CALL_BYTES_MAX, PeerService};

/// Calls or replies of one frame.
pub(super) const ENVELOPES_PER_FRAME_MAX: usize = 1024;

/// A frame with so many bytes leaves without waiting for more.
pub(super) const FRAME_BYTES_ENOUGH: usize = 256 * 1024;

/// Bytes that one envelope takes in the header of its frame, at most.
const ENVELOPE_HEAD_BYTES_MAX: usize = 24;

/// What is taken from a stream of calls or replies: the last of a frame may be a large one.
pub(super) const FRAME_LIMITS: FrameLimits = FrameLimits {
    header_bytes_max: ENVELOPES_PER_FRAME_MAX * ENVELOPE_HEAD_BYTES_MAX,
    payload_bytes_max: FRAME_BYTES_ENOUGH + CALL_BYTES_MAX,
};

/// A call, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CallHead {
    /// Names the call on its connection.
    pub(super) id: u64,
    /// Which room it is for.
    pub(super) service: PeerService,
    /// How many bytes of the payload are its own.
    pub(super) len: u32,
}

/// A reply, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplyHead {
    /// The call that it answers.
    pub(super) id: u64,
    /// Whether the bytes are the answer, or the text of a refusal.
    pub(super) is_ok: bool,
    /// How many bytes of the payload are its own.
    pub(super) len: u32,
}

/// What stands for an envelope in the header of a frame.
pub(super) trait Head: DeserializeOwned {
    fn len(&self) -> usize;
}

impl Head for CallHead {
    fn len(&self) -> usize {
        self.len as usize
    }
}

impl Head for ReplyHead {
    fn len(&self) -> usize {
        self.len as usize
    }
}

/// Why a frame holds no envelopes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EnvelopeError {
    #[error("the frame cannot be decoded: {0}")]
    Malformed(String),
    #[error("a frame of {0} calls is over the limit of {ENVELOPES_PER_FRAME_MAX}")]
    TooMany(usize),
    #[error("a call of {0} bytes is over the limit of {CALL_BYTES_MAX}")]
    TooLarge(usize),
    #[error("the lengths of the calls are not that of their frame")]
    WrongLength,
}

/// The envelopes of a frame, each with its bytes, which are shared with the frame.
pub(super) fn open<H: Head>(
    header: &[u8],
    mut payload: Bytes,
) -> Result<Vec<(H, Bytes)>, EnvelopeError> {
    let heads: Vec<H> =
        decode_header(header).map_err(|error| EnvelopeError::Malformed(error.to_string()))?;
    if heads.len() > ENVELOPES_PER_FRAME_MAX {
        return Err(EnvelopeError::TooMany(heads.len()));
    }
    let mut envelopes = Vec::with_capacity(heads.len());
    for head in heads {
        let len = head.len();
        if len > CALL_BYTES_MAX {
            return Err(EnvelopeError::TooLarge(len));
        }
        if len > payload.len() {
            return Err(EnvelopeError::WrongLength);
        }
        envelopes.push((head, payload.split_to(len)));
    }
    if payload.is_empty() {
        Ok(envelopes)
    } else {
        Err(EnvelopeError::WrongLength)
    }
}

/// Whether the bytes are the header and the payload of a frame of calls or of replies.
pub(super) fn decode_for_fuzzing(bytes: &[u8]) -> bool {
    let Some((len, rest)) = bytes.split_first() else {
        return false;
    };
    let (header, payload) = rest.split_at(rest.len().min(*len as usize));
    let payload = Bytes::copy_from_slice(payload);
    let calls = open::<CallHead>(header, payload.clone());
    let replies = open::<ReplyHead>(header, payload.clone());
    if let Ok(calls) = &calls {
        let total: usize = calls.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(total, payload.len(), "every byte belongs to a call");
    }
    calls.is_ok() || replies.is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(lens: &[u32]) -> (Vec<u8>, Bytes) {
        let heads: Vec<_> = lens
            .iter()
            .zip(0..)
            .map(|(len, id)| CallHead {
                id,
                service: PeerService::Records,
                len: *len,
            })
            .collect();
        let total: u32 = lens.iter().sum();
        let payload: Vec<u8> = (0..total).map(|at| at as u8).collect();
        (postcard::to_allocvec(&heads).unwrap(), payload.into())
    }

    #[test]
    fn the_head_of_an_envelope_is_within_its_limit() {
        let head = CallHead {
            id: u64::MAX,
            service: PeerService::Records,
            len: u32::MAX,
        };
        let bytes = postcard::to_allocvec(&head).unwrap();
        assert!(bytes.len() < ENVELOPE_HEAD_BYTES_MAX);
    }

    #[test]
    fn lengths_that_do_not_fit_the_frame_are_refused() {
        let (header, payload) = frame(&[3, 4]);
        let opened = open::<CallHead>(&header, payload.slice(..6));
        assert_eq!(opened.unwrap_err(), EnvelopeError::WrongLength);
        let longer: Bytes = [&payload[..], b"more"].concat().into();
        let opened = open::<CallHead>(&header, longer);
        assert_eq!(opened.unwrap_err(), EnvelopeError::WrongLength);
        let heads = [CallHead {
            id: 1,
            service: PeerService::Raft,
            len: u32::MAX,
        }];
        let header = postcard::to_allocvec(&heads[..]).unwrap();
        let opened = open::<CallHead>(&header, Bytes::new());
        assert!(matches!(opened, Err(EnvelopeError::TooLarge(_))));
        let (header, payload) = frame(&[0; ENVELOPES_PER_FRAME_MAX + 1]);
        let opened = open::<CallHead>(&header, payload);
        assert!(matches!(opened, Err(EnvelopeError::TooMany(_))));
    }

    proptest! {
        #[test]
        fn every_call_of_a_frame_comes_out_as_it_went_in(
            lens in prop::collection::vec(0_u32..200, 0..40),
        ) {
            let (header, payload) = frame(&lens);
            let opened = open::<CallHead>(&header, payload.clone()).unwrap();
            let bytes: Vec<_> = opened.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
            prop_assert_eq!(bytes, payload);
            let opened_lens: Vec<_> = opened.iter().map(|(head, _)| head.len).collect();
            prop_assert_eq!(opened_lens, lens);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            decode_for_fuzzing(&bytes);
        }
    }
}
