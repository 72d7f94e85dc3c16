//! Byte-pair encoding of one piece of text.
//!
//! Works on bytes and token numbers only, keeps nothing between calls, and wipes its working memory. The time is
//! O(n log n) in the length of a piece, so that a piece of a million letters is merely slow.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use darkbloom_types::TokenId;
use zeroize::Zeroize;

/// Spreads a pair of token numbers over the table. The keys come from the vocabulary, never from a text, so nobody who
/// writes texts can choose collisions.
#[derive(Default)]
pub(crate) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, number: u64) {
        // The multiplier is 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 6.4).
        let mixed = (self.0 ^ number ^ (number >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

/// What two neighbouring tokens become, and how early.
#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    becomes: u32,
}

/// The merges of a vocabulary.
pub(crate) struct Bpe {
    /// The token of each single byte.
    bytes: [u32; 256],
    merges: HashMap<u64, Merge, BuildHasherDefault<PairHasher>>,
}

/// The end of the list of symbols, in both directions.
const NONE: u32 = u32::MAX;

/// A token in the making, in a doubly linked list.
#[derive(Clone, Copy)]
struct Symbol {
    token: u32,
    previous: u32,
    next: u32,
    /// Whether it was merged into its left neighbour.
    gone: bool,
}

/// Two neighbours that could merge: the earliest rank first, then the leftmost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: u32,
    left: u32,
    right: u32,
}

/// Memory that the pieces of one text share; wiped on drop.
#[derive(Default)]
pub(crate) struct Workspace {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Reverse<Candidate>>,
}

impl Drop for Workspace {
    fn drop(&mut self) {
        for symbol in &mut self.symbols {
            symbol.token.zeroize();
        }
        // What was popped lies behind the heap's end; filling the vector up to its capacity overwrites it.
        let mut candidates = std::mem::take(&mut self.candidates).into_vec();
        candidates.clear();
        candidates.resize(candidates.capacity(), Reverse(Candidate { rank: 0, at: 0, left: 0, right: 0 }));
        std::hint::black_box(&candidates);
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    /// Merges in order of their rank: what stands left, what stands right, what they become.
    pub(crate) fn new(bytes: [u32; 256], merges: impl ExactSizeIterator<Item = (u32, u32, u32)>) -> Self {
        let mut table = HashMap::with_capacity_and_hasher(merges.len(), BuildHasherDefault::default());
        for (rank, (left, right, becomes)) in (0..).zip(merges) {
            table.insert(pair(left, right), Merge { rank, becomes });
        }
        Self { bytes, merges: table }
    }

    /// Appends the tokens of a piece of less than 2³² − 1 bytes.
    pub(crate) fn encode(&self, piece: &[u8], workspace: &mut Workspace, tokens: &mut Vec<TokenId>) {
        let Workspace { symbols, candidates } = workspace;
        symbols.clear();
        candidates.clear();
        let length = u32::try_from(piece.len()).expect("a prompt is limited to far less than 4 GiB");
        for (at, byte) in (0..length).zip(piece) {
            let next = if at + 1 == length { NONE } else { at + 1 };
            let previous = at.checked_sub(1).unwrap_or(NONE);
            symbols.push(Symbol { token: self.bytes[usize::from(*byte)], previous, next, gone: false });
        }
        for at in 1..length {
            self.propose(symbols, candidates, at - 1, at);
        }
        while let Some(Reverse(candidate)) = candidates.pop() {
            self.merge(symbols, candidates, candidate);
        }
        tokens.extend(symbols.iter().filter(|symbol| !symbol.gone).map(|symbol| TokenId(symbol.token)));
    }

    fn propose(&self, symbols: &[Symbol], candidates: &mut BinaryHeap<Reverse<Candidate>>, at: u32, next: u32) {
        let (left, right) = (symbols[at as usize].token, symbols[next as usize].token);
        if let Some(merge) = self.merges.get(&pair(left, right)) {
            candidates.push(Reverse(Candidate { rank: merge.rank, at, left, right }));
        }
    }

    /// Carries a merge out, unless one of the two was merged with somebody else meanwhile.
    fn merge(&self, symbols: &mut [Symbol], candidates: &mut BinaryHeap<Reverse<Candidate>>, candidate: Candidate) {
        let Symbol { token, previous, next, gone } = symbols[candidate.at as usize];
        if gone || token != candidate.left || next == NONE || symbols[next as usize].token != candidate.right {
            return;
        }
        let Some(merge) = self.merges.get(&pair(candidate.left, candidate.right)) else { return };
        let after = symbols[next as usize].next;
        symbols[next as usize].gone = true;
        symbols[candidate.at as usize].token = merge.becomes;
        symbols[candidate.at as usize].next = after;
        if after != NONE {
            symbols[after as usize].previous = candidate.at;
            self.propose(symbols, candidates, candidate.at, after);
        }
        if previous != NONE {
            self.propose(symbols, candidates, previous, candidate.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Merges over three letters, some of which join what others made: the longest token has 64 letters.
    fn merges() -> Vec<(u32, u32, u32)> {
        let letter = |byte: u8| u32::from(byte);
        let (a, b) = (letter(b'a'), letter(b'b'));
        let mut merges = vec![(a, b, 300), (b, a, 301), (300, a, 302), (301, 301, 303), (a, 302, 304)];
        // aa, aaaa, … and one that joins unequal halves.
        let mut half = a;
        for token in 310..316 {
            merges.push((half, half, token));
            half = token;
        }
        merges.push((311, a, 320));
        merges
    }

    fn bpe(merges: &[(u32, u32, u32)]) -> Bpe {
        let mut bytes = [0; 256];
        (0..).zip(&mut bytes).for_each(|(number, token)| *token = number);
        Bpe::new(bytes, merges.iter().copied())
    }

    /// The definition: as long as any two neighbours merge, the leftmost pair of the earliest merge does.
    fn by_definition(merges: &[(u32, u32, u32)], piece: &[u8]) -> Vec<u32> {
        let mut tokens: Vec<u32> = piece.iter().map(|byte| u32::from(*byte)).collect();
        loop {
            let rank = |pair: &[u32]| merges.iter().position(|(left, right, _)| [*left, *right] == *pair);
            let pairs = tokens.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at)));
            let Some((rank, at)) = pairs.min() else { return tokens };
            tokens[at] = merges[rank].2;
            tokens.remove(at + 1);
        }
    }

    fn encoded(bpe: &Bpe, piece: &[u8]) -> Vec<u32> {
        let mut tokens = Vec::new();
        bpe.encode(piece, &mut Workspace::default(), &mut tokens);
        tokens.iter().map(|token| token.0).collect()
    }

    #[test]
    fn one_letter_however_often_is_merged_by_the_definition() {
        let (merges, bpe) = (merges(), bpe(&merges()));
        for length in 0..200 {
            let piece = vec![b'a'; length];
            assert_eq!(encoded(&bpe, &piece), by_definition(&merges, &piece), "{length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn long_pieces_are_merged_by_the_definition(piece in "(a{1,40}|b|(ab){1,9}|c){0,12}") {
            let merges = merges();
            prop_assert_eq!(encoded(&bpe(&merges), piece.as_bytes()), by_definition(&merges, piece.as_bytes()));
        }
    }
}
