//! The provider's view: which streams run on a connection, and which were cancelled.

use std::collections::HashMap;

use darkbloom_types::StreamId;

/// Streams that one connection may have at once: several times the rows of the largest batch.
pub const STREAMS_MAX: usize = 1_024;

/// Why an offer is not taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// The coordinator used a number twice: its fault.
    #[error("the stream number was used before")]
    NumberUsed,
    /// Too many at once.
    #[error("too many streams")]
    TooMany,
}

/// What to do about a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAction {
    /// Stop the row; acknowledge when it is free.
    Stop,
    /// It is over already: acknowledge at once.
    AcknowledgeNow,
    /// It is being stopped: the acknowledgement is on its way.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Cancelled,
}

/// The streams of one connection.
#[derive(Debug, Default)]
pub struct ProviderStreams {
    running: HashMap<StreamId, State>,
    highest: Option<StreamId>,
}

impl ProviderStreams {
    /// Takes an offer up. Numbers ascend, so a set of all used ones is not needed.
    ///
    /// # Errors
    /// [`OfferError`] says why not.
    pub fn offered(&mut self, stream: StreamId) -> Result<(), OfferError> {
        if self.highest.is_some_and(|highest| stream <= highest) {
            return Err(OfferError::NumberUsed);
        }
        self.highest = Some(stream);
        if self.running.len() >= STREAMS_MAX {
            return Err(OfferError::TooMany);
        }
        self.running.insert(stream, State::Running);
        Ok(())
    }

    /// A cancel came.
    pub fn cancel(&mut self, stream: StreamId) -> CancelAction {
        match self.running.get_mut(&stream) {
            Some(state @ State::Running) => {
                *state = State::Cancelled;
                CancelAction::Stop
            }
            Some(State::Cancelled) => CancelAction::Nothing,
            None => CancelAction::AcknowledgeNow,
        }
    }

    /// The stream's work is over; returns whether a cancel has to be acknowledged now.
    pub fn finished(&mut self, stream: StreamId) -> bool {
        self.running.remove(&stream) == Some(State::Cancelled)
    }

    /// Whether frames of this stream may still be sent.
    #[must_use]
    pub fn is_live(&self, stream: StreamId) -> bool {
        self.running.get(&stream) == Some(&State::Running)
    }

    /// Whether none runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_is_acknowledged_exactly_once() {
        let mut streams = ProviderStreams::default();
        streams.offered(StreamId(1)).unwrap();
        assert!(streams.is_live(StreamId(1)) && !streams.is_empty());
        assert_eq!(streams.cancel(StreamId(1)), CancelAction::Stop);
        assert_eq!(streams.cancel(StreamId(1)), CancelAction::Nothing);
        assert!(!streams.is_live(StreamId(1)));
        assert!(!streams.is_empty(), "its row is not free yet");
        assert!(streams.finished(StreamId(1)));
        assert!(streams.is_empty());
        assert_eq!(streams.cancel(StreamId(1)), CancelAction::AcknowledgeNow);
        assert!(!streams.finished(StreamId(1)));
    }

    #[test]
    fn a_stream_number_is_never_used_twice() {
        let mut streams = ProviderStreams::default();
        streams.offered(StreamId(5)).unwrap();
        streams.finished(StreamId(5));
        assert_eq!(streams.offered(StreamId(5)), Err(OfferError::NumberUsed));
        assert_eq!(streams.offered(StreamId(4)), Err(OfferError::NumberUsed));
    }

    #[test]
    fn streams_are_bounded() {
        let mut streams = ProviderStreams::default();
        for number in 0..STREAMS_MAX as u64 {
            streams.offered(StreamId(number)).unwrap();
        }
        assert_eq!(streams.offered(StreamId(STREAMS_MAX as u64)), Err(OfferError::TooMany));
    }
}
