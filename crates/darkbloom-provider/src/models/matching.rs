//! Whether a model file is one that a catalogue offers.

use std::fs::File;
use std::io::BufReader;

use darkbloom_text::TextPack;
use darkbloom_types::Digest;

use super::listing::single_root;
use super::scan::{FoundModel, quantisation};

/// What a catalogue says of a model.
#[derive(Debug, Clone, Copy)]
pub struct Offered<'o> {
    /// The weights root.
    pub weights: Digest,
    /// The digest of tokenizer and template.
    pub text_pack: Digest,
    /// How the weights are stored, in the operator's words.
    pub quantisation: &'o str,
}

/// Whether a file is what is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Its digest says so.
    Yes,
    /// Nothing speaks against it: tokenizer, template and quantisation are the same, or the cache names it by the right digest.
    Maybe,
    /// It is another.
    No,
}

impl FoundModel {
    /// Whether this is what is offered; for certain where its weights root is known. Without it the file's header is read, which
    /// blocks.
    #[must_use]
    pub fn matches(&self, offered: &Offered<'_>, weights: Option<Digest>) -> Match {
        let yes_or_no = |found: Digest, sure| if found == offered.weights { sure } else { Match::No };
        let Ok(header) = &self.header else { return Match::No };
        if let Some(found) = weights {
            return yes_or_no(found, Match::Yes);
        }
        if let Some(claimed) = self.claimed {
            return yes_or_no(single_root(claimed), Match::Maybe);
        }
        let stored = quantisation(header.file_type);
        if stored != "unknown" && !stored.eq_ignore_ascii_case(offered.quantisation) {
            return Match::No;
        }
        let pack = File::open(&self.path).ok().and_then(|file| TextPack::from_gguf(BufReader::new(file)).ok());
        if pack.is_some_and(|pack| pack.digest() == offered.text_pack) { Match::Maybe } else { Match::No }
    }
}
