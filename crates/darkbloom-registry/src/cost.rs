//! What a request would cost at a provider: the milliseconds until its answer is complete, as far as anybody can say before
//! it runs. Integers, so that every machine chooses alike.
//!
//! ```text
//! ready      0 loaded · what is left of a load · a whole load where it lies on a disk
//! queue      requests waiting there × a usual answer ÷ rows
//! prefill    input × time for a token of a prompt × what running rows take
//! decode     expected output × time for a token of an answer × what running rows take
//! memory     4,000 × pressure² · thermal 0, 0, 2,000, 8,000 · refusals 15,000 × rate · the round trip
//! ```

use darkbloom_types::{Millis, TokenCount};

/// A usual load from a disk, for who has not been seen loading: 8 GB at 500 MB a second, and a little.
pub const LOAD: Millis = Millis::from_secs(20);
/// A provider that loaded another model a moment ago is asked for this one last, as if that took so much longer: else two
/// models that are wanted in turn would throw each other out.
pub const DWELLING: Millis = Millis::from_secs(60);
/// Output of a usual answer. A request's own ceiling counts where it is less: most end long before theirs.
pub const OUTPUT_USUAL: TokenCount = TokenCount(256);
/// Input of a usual request, for comparing providers without one.
pub const INPUT_USUAL: TokenCount = TokenCount(512);
/// Time for a token of a prompt, in microseconds, where nobody has measured any: 200 a second.
pub const PREFILL_US: u32 = 5_000;
/// Time for a token of an answer where nobody has measured any: 20 a second.
pub const DECODE_US: u32 = 50_000;
/// How much longer everything takes for each row that runs beside it, in parts of a thousand: between 110, which our engine
/// shows on a CPU with eight rows, and 390, which the system before this one measured on laptops.
pub const SHARED: u64 = 250;
/// A provider at the limit of its memory, which swaps or drops models.
const MEMORY_MS: u64 = 4_000;
/// By thermal state: nominal, fair, serious, critical.
const THERMAL_MS: [u64; 4] = [0, 0, 2_000, 8_000];
/// A provider that declines everything.
const DECLINED_MS: u64 = 15_000;
/// Costs that differ by less than this, or by an eighth, are alike: estimates are no better.
const TIE_MS: u64 = 100;

/// Where the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// In memory.
    Loaded,
    /// On its way there since so long.
    Loading(Millis),
    /// On a disk; whether something else was loaded a moment ago.
    Stored {
        /// It was.
        dwelling: bool,
    },
}

/// What is known of a provider and one of its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Where the model is.
    pub ready: Ready,
    /// Rows at work, those included that no heartbeat shows yet.
    pub running: u32,
    /// Rows in all.
    pub rows: u32,
    /// Requests that wait there.
    pub waiting: u32,
    /// Microseconds for a token of a prompt.
    pub prefill_us: u32,
    /// Microseconds for a token of an answer of a row alone.
    pub decode_us: u32,
    /// Memory in use, in parts of a thousand of what it has.
    pub memory_permille: u16,
    /// Thermal state: 0 nominal to 3 critical.
    pub thermal: u16,
    /// There and back.
    pub round_trip: Millis,
    /// Of the latest requests, how many it declined or failed, in parts of a thousand.
    pub declined_permille: u16,
}

/// Milliseconds until a request of this size is answered there.
#[must_use]
pub fn expected_ms(load: &Load, input: TokenCount, output: TokenCount) -> u64 {
    let ready = match load.ready {
        Ready::Loaded => 0,
        Ready::Loading(since) => LOAD.0.saturating_sub(since.0).max(1_000),
        Ready::Stored { dwelling } => LOAD.0 + if dwelling { DWELLING.0 } else { 0 },
    };
    let shared = 1_000 + SHARED * u64::from(load.running.min(1_000));
    let tokens = |count: u64, us: u32| count.saturating_mul(u64::from(us)).saturating_mul(shared) / 1_000_000;
    let prefill = tokens(u64::from(input.0), load.prefill_us);
    let decode = tokens(u64::from(output.min(OUTPUT_USUAL).0), load.decode_us);
    let usual = tokens(u64::from(OUTPUT_USUAL.0), load.decode_us);
    let queue = u64::from(load.waiting.min(1_000)).saturating_mul(usual) / u64::from(load.rows.max(1));
    let pressure = u64::from(load.memory_permille.min(1_000));
    let memory = MEMORY_MS * pressure * pressure / 1_000_000;
    let thermal = THERMAL_MS[usize::from(load.thermal.min(3))];
    let declined = DECLINED_MS * u64::from(load.declined_permille.min(1_000)) / 1_000;
    [ready, prefill, decode, queue, memory, thermal, declined, load.round_trip.0.min(60_000)]
        .into_iter()
        .fold(0, u64::saturating_add)
}

/// The most that is like the least.
#[must_use]
pub fn alike(least: u64) -> u64 {
    least.saturating_add(TIE_MS.max(least / 8))
}

/// Providers of one class differ by less than a factor of two: 0 is under a second, the last over four minutes.
#[must_use]
pub fn class(ms: u64) -> usize {
    (ms.max(512).ilog2() as usize - 9).min(CLASSES - 1)
}

/// How many classes there are.
pub const CLASSES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Load = Load {
        ready: Ready::Loaded,
        running: 0,
        rows: 4,
        waiting: 0,
        prefill_us: PREFILL_US,
        decode_us: DECODE_US,
        memory_permille: 0,
        thermal: 0,
        round_trip: Millis(0),
        declined_permille: 0,
    };

    fn cost(load: Load) -> u64 {
        expected_ms(&load, TokenCount(100), TokenCount(100))
    }

    #[test]
    fn a_request_costs_its_prompt_and_its_answer() {
        assert_eq!(cost(IDLE), 500 + 5_000);
        assert_eq!(expected_ms(&IDLE, TokenCount(0), TokenCount(u32::MAX)), 256 * 50, "a ceiling is no forecast");
        assert_eq!(cost(Load { decode_us: 10_000, ..IDLE }), 1_500);
        assert_eq!(cost(Load { running: 2, ..IDLE }), 8_250);
    }

    #[test]
    fn everything_that_delays_an_answer_costs() {
        let worse = [
            Load { ready: Ready::Loading(Millis(0)), ..IDLE },
            Load { ready: Ready::Stored { dwelling: false }, ..IDLE },
            Load { running: 1, ..IDLE },
            Load { waiting: 1, ..IDLE },
            Load { memory_permille: 900, ..IDLE },
            Load { thermal: 2, ..IDLE },
            Load { round_trip: Millis(80), ..IDLE },
            Load { declined_permille: 100, ..IDLE },
        ];
        assert!(worse.iter().all(|load| cost(*load) > cost(IDLE)));
        let stored = Load { ready: Ready::Stored { dwelling: false }, ..IDLE };
        let late = Load { ready: Ready::Loading(Millis(15_000)), ..IDLE };
        assert!(cost(late) < cost(stored), "who loads already is nearer");
        assert!(cost(Load { ready: Ready::Stored { dwelling: true }, ..IDLE }) > cost(stored));
    }

    #[test]
    fn no_number_that_a_provider_says_overflows() {
        let most = Load {
            ready: Ready::Stored { dwelling: true },
            running: u32::MAX,
            rows: 0,
            waiting: u32::MAX,
            prefill_us: u32::MAX,
            decode_us: u32::MAX,
            memory_permille: u16::MAX,
            thermal: u16::MAX,
            round_trip: Millis(u64::MAX),
            declined_permille: u16::MAX,
        };
        let cost = expected_ms(&most, TokenCount(u32::MAX), TokenCount(u32::MAX));
        assert_eq!((class(cost), alike(cost) >= cost), (CLASSES - 1, true));
        assert_eq!((class(0), class(1_023), class(1_024)), (0, 0, 1));
    }
}
