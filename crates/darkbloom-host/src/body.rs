//! Reading a request's body within limits, by whoever has checked before that it is worth reading.

use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use darkbloom_types::{Refusal, RefusalCode};
use hyper::body::Body as _;
use tokio::time::timeout;

/// How long a body may take in all: 4 MiB arrive within it at 1.2 Mbit/s.
pub const BODY_WAIT: Duration = Duration::from_secs(30);
/// What is set aside before anything came, however much was announced.
const FIRST_BYTES: u64 = 64 << 10;

/// Why there is no body. It is the sender's doing each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadBodyError {
    /// It is longer than allowed.
    #[error("a body has at most {0} bytes here")]
    TooLarge(usize),
    /// It did not come in time.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    Late(Duration),
    /// It broke off.
    #[error("the body broke off")]
    Broken,
}

impl From<ReadBodyError> for Refusal {
    fn from(error: ReadBodyError) -> Self {
        let code = match error {
            ReadBodyError::TooLarge(_) => RefusalCode::TooLarge,
            ReadBodyError::Late(_) | ReadBodyError::Broken => RefusalCode::InvalidRequest,
        };
        Self::new(code, error.to_string())
    }
}

/// Reads a body of at most so many bytes, within [`BODY_WAIT`].
///
/// # Errors
/// [`ReadBodyError`].
pub async fn read(body: Body, bytes_max: usize) -> Result<Bytes, ReadBodyError> {
    read_within(body, bytes_max, BODY_WAIT).await
}

async fn read_within(body: Body, bytes_max: usize, wait: Duration) -> Result<Bytes, ReadBodyError> {
    timeout(wait, gather(body, bytes_max)).await.unwrap_or(Err(ReadBodyError::Late(wait)))
}

async fn gather(mut body: Body, bytes_max: usize) -> Result<Bytes, ReadBodyError> {
    let announced = body.size_hint().lower();
    if announced > bytes_max as u64 {
        return Err(ReadBodyError::TooLarge(bytes_max));
    }
    let first = usize::try_from(announced.min(FIRST_BYTES)).expect("64 KiB are addressable");
    let mut whole = Vec::with_capacity(first);
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        // What is not data are trailers, which mean nothing here.
        let Ok(data) = frame.map_err(|_| ReadBodyError::Broken)?.into_data() else { continue };
        if data.len() > bytes_max - whole.len() {
            return Err(ReadBodyError::TooLarge(bytes_max));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Poll;

    use super::*;

    /// A body that comes in these pieces and then never ends, or ends.
    struct Pieces(Vec<&'static [u8]>, bool);

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            match (self.0.pop(), self.1) {
                (Some(piece), _) => Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(piece))))),
                (None, true) => Poll::Ready(None),
                (None, false) => Poll::Pending,
            }
        }
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_its_limit_and_not_beyond() {
        let pieces = || Body::new(Pieces(vec![b"cd", b"ab"], true));
        assert_eq!(read(pieces(), 4).await.as_deref(), Ok(&b"abcd"[..]));
        assert_eq!(read(pieces(), 3).await, Err(ReadBodyError::TooLarge(3)));
        assert_eq!(read(Body::from("abcd"), 3).await, Err(ReadBodyError::TooLarge(3)));
        assert_eq!(read(Body::empty(), 0).await.as_deref(), Ok(&b""[..]));
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_refused_in_time() {
        let wait = Duration::from_millis(30);
        let late = read_within(Body::new(Pieces(vec![b"ab"], false)), 4, wait).await.unwrap_err();
        assert_eq!(late, ReadBodyError::Late(wait));
        assert_eq!(Refusal::from(late).code, RefusalCode::InvalidRequest);
    }
}
