//! Text packs in memory: anybody may ask for them, so asking must not cost a read of the database each time.

use std::collections::VecDeque;
use std::future::Future;

use bytes::Bytes;
use darkbloom_types::Digest;
use tokio::sync::Mutex;

/// Bytes in memory: some twenty text packs of the largest vocabularies, about 6 MiB each.
const CACHED_BYTES_MAX: usize = 128 << 20;

/// The text packs that were asked for last.
#[derive(Debug, Default)]
pub struct Blobs {
    /// Held while one is loaded, so that a crowd that asks for the same one loads it once, and never several at once.
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    /// The one asked for last stands at the end. A catalogue names so few that searching is no matter.
    packs: VecDeque<(Digest, Bytes)>,
    bytes: usize,
}

impl Blobs {
    /// A blob, from memory or as `load` brings it.
    ///
    /// # Errors
    /// What `load` says.
    pub async fn take<E>(
        &self,
        digest: Digest,
        load: impl Future<Output = Result<Option<Vec<u8>>, E>>,
    ) -> Result<Option<Bytes>, E> {
        let mut cached = self.cached.lock().await;
        if let Some(at) = cached.packs.iter().position(|(known, _)| *known == digest) {
            let entry = cached.packs.remove(at).expect("the place was just found");
            let bytes = entry.1.clone();
            cached.packs.push_back(entry);
            return Ok(Some(bytes));
        }
        let Some(bytes) = load.await?.map(Bytes::from) else { return Ok(None) };
        cached.keep(digest, bytes.clone(), CACHED_BYTES_MAX);
        Ok(Some(bytes))
    }
}

impl Cached {
    fn keep(&mut self, digest: Digest, bytes: Bytes, bytes_max: usize) {
        if bytes.len() > bytes_max {
            return;
        }
        self.bytes += bytes.len();
        self.packs.push_back((digest, bytes));
        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.packs.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_text_pack_is_loaded_once_and_what_is_not_there_is_not_kept() {
        let (blobs, loads) = (Blobs::default(), Cell::new(0));
        let load = |bytes: Option<&'static [u8]>| {
            let loads = &loads;
            async move {
                loads.set(loads.get() + 1);
                Ok::<_, ()>(bytes.map(<[u8]>::to_vec))
            }
        };
        assert_eq!(blobs.take(Digest([1; 32]), load(None)).await, Ok(None));
        for _ in 0..3 {
            let pack = blobs.take(Digest([1; 32]), load(Some(b"pack"))).await;
            assert_eq!(pack.unwrap().as_deref(), Some(&b"pack"[..]));
        }
        assert_eq!(loads.get(), 2, "once for nothing, once for all the others");
        assert_eq!(blobs.take(Digest([2; 32]), async { Err::<Option<Vec<u8>>, _>("broken") }).await, Err("broken"));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut cached = Cached::default();
        for number in 0..9 {
            cached.keep(Digest([number; 32]), Bytes::from_static(b"1234"), 10);
        }
        let kept: Vec<_> = cached.packs.iter().map(|(digest, _)| digest.0[0]).collect();
        assert_eq!((kept, cached.bytes), (vec![7, 8], 8));
        cached.keep(Digest([99; 32]), Bytes::from_static(b"12345678901"), 10);
        assert_eq!(cached.bytes, 8, "what fits never is not kept, and drives nothing out");
    }
}
