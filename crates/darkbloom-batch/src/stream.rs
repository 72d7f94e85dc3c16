//! Random numbers as a function of a seed and a position: no state, so nobody else's draw can shift a row's own.

/// Philox 4×32 with ten rounds (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    const ROUNDS: u32 = 10;

    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..ROUNDS {
        let (low0, high0) = multiply(MULTIPLIERS[0], c0);
        let (low1, high1) = multiply(MULTIPLIERS[1], c2);
        (c0, c1, c2, c3) = (high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0);
        (k0, k1) = (k0.wrapping_add(KEY_STEPS[0]), k1.wrapping_add(KEY_STEPS[1]));
    }
    [c0, c1, c2, c3]
}

/// Low and high half of the 64-bit product.
fn multiply(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    (product as u32, (product >> 32) as u32)
}

/// The uniform number in [0, 1) that belongs to one position of one seed's stream, with all 53 bits that fit.
pub(crate) fn uniform(seed: u64, position: u32) -> f64 {
    let [high, low, ..] = philox([position, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // Known answers of the authors' Random123 library, "philox4x32 10".
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_bit_of_a_seed_and_every_position_has_its_own_draw() {
        let draws: std::collections::BTreeSet<_> = (0..64)
            .map(|bit| uniform(1 << bit, 0).to_bits())
            .chain((0..64).map(|position| uniform(0, position).to_bits()))
            .collect();
        assert_eq!(draws.len(), 128);
    }

    #[test]
    fn draws_fill_the_unit_interval_evenly() {
        const DRAWS: u32 = 40_000;
        let mut counts = [0u32; 16];
        for position in 0..DRAWS {
            let draw = uniform(7, position);
            assert!((0.0..1.0).contains(&draw));
            counts[(draw * 16.0) as usize] += 1;
        }
        // 2,500 expected a cell, standard deviation 48: five of them either way.
        assert!(counts.iter().all(|count| (2_260..2_740).contains(count)), "{counts:?}");
    }
}
