//! What a request costs once it has ended, and who gets it.

use darkbloom_types::{NanoDollars, TokenCount, armed};

use crate::hold::HoldTerms;

/// Token counts that a provider signed in a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptUsage {
    /// Input tokens.
    pub input: TokenCount,
    /// Output tokens.
    pub output: TokenCount,
}

/// What reached the consumer, as the coordinator saw it, and what the provider signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    /// Whether at least one content frame was relayed.
    pub content_relayed: bool,
    /// The cumulative output count of the last frame relayed.
    pub relayed_output: TokenCount,
    /// The receipt, where one came and verified.
    pub receipt: Option<ReceiptUsage>,
}

/// What is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Charge {
    /// Input tokens charged.
    pub input_tokens: TokenCount,
    /// Output tokens charged.
    pub output_tokens: TokenCount,
    /// What they cost; at most the hold.
    pub amount: NanoDollars,
}

/// The rule of settlement.
///
/// - Nothing at all is charged until a content frame was relayed.
/// - Output: the least of the receipt's count, the last count relayed, and the ceiling. Without a receipt, the least of
///   the last two.
/// - Input: the receipt's count, at most the ceiling. Without a receipt the number of input tokens is known to nobody
///   whom the consumer should believe, so it is zero: a provider that wants its input paid delivers its receipt.
#[must_use]
pub fn charge(terms: &HoldTerms, delivered: &Delivered) -> Charge {
    if !delivered.content_relayed {
        return Charge::default();
    }
    let ceiling = |count: TokenCount, most: TokenCount| if armed!("charge_ceiling") { count.min(most) } else { count };
    let relayed = ceiling(delivered.relayed_output, terms.output_ceiling());
    let (input_tokens, output_tokens) = match delivered.receipt {
        Some(receipt) if !armed!("charge_relayed") => (receipt.input, receipt.output),
        Some(receipt) => (ceiling(receipt.input, terms.input_ceiling()), receipt.output.min(relayed)),
        None => (TokenCount(0), relayed),
    };
    let amount = terms
        .price()
        .cost(input_tokens, output_tokens)
        .expect("the tokens are at most the ceilings, whose cost was in range when the terms were made");
    Charge { input_tokens, output_tokens, amount }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_types::Price;
    use proptest::prelude::*;

    const PRICE: Price = Price { version: 1, input_nano_per_token: 3, output_nano_per_token: 7 };

    fn terms() -> HoldTerms {
        HoldTerms::new(NanoDollars(1_000), PRICE, TokenCount(100), TokenCount(50)).unwrap()
    }

    fn relayed(output: u32, receipt: Option<(u32, u32)>) -> Delivered {
        let receipt =
            receipt.map(|(input, output)| ReceiptUsage { input: TokenCount(input), output: TokenCount(output) });
        Delivered { content_relayed: true, relayed_output: TokenCount(output), receipt }
    }

    #[test]
    fn output_is_the_least_of_receipt_relayed_and_ceiling() {
        for (relayed_output, receipt_output, charged) in [(10, 20, 10), (20, 10, 10), (90, 80, 50)] {
            let charge = charge(&terms(), &relayed(relayed_output, Some((4, receipt_output))));
            assert_eq!((charge.input_tokens, charge.output_tokens), (TokenCount(4), TokenCount(charged)));
            assert_eq!(charge.amount, NanoDollars(4 * 3 + i64::from(charged) * 7));
        }
    }

    #[test]
    fn without_a_receipt_relayed_output_is_charged_and_no_input() {
        let charge = charge(&terms(), &relayed(60, None));
        assert_eq!(
            charge,
            Charge { input_tokens: TokenCount(0), output_tokens: TokenCount(50), amount: NanoDollars(350) }
        );
    }

    #[test]
    fn a_receipt_without_relayed_content_charges_nothing() {
        let delivered = Delivered { content_relayed: false, ..relayed(40, Some((100, 40))) };
        assert_eq!(charge(&terms(), &delivered), Charge::default());
    }

    #[test]
    fn input_is_capped_by_its_ceiling() {
        assert_eq!(charge(&terms(), &relayed(0, Some((u32::MAX, u32::MAX)))).amount, NanoDollars(300));
    }

    proptest! {
        #[test]
        fn no_delivery_is_charged_more_than_its_hold(
            price in any::<(u32, u32)>(), ceilings in any::<(u32, u32)>(),
            content_relayed: bool, relayed_output: u32, receipt in any::<Option<(u32, u32)>>(),
        ) {
            let price = Price { version: 1, input_nano_per_token: price.0, output_nano_per_token: price.1 };
            let (input, output) = (TokenCount(ceilings.0), TokenCount(ceilings.1));
            let Ok(worst_case) = crate::worst_case(price, input, output) else { return Ok(()) };
            let terms = HoldTerms::new(worst_case, price, input, output).unwrap();
            let delivered = Delivered { content_relayed, ..relayed(relayed_output, receipt) };
            let charge = charge(&terms, &delivered);
            prop_assert!(charge.amount >= NanoDollars::ZERO && charge.amount <= worst_case);
            prop_assert!(charge.output_tokens <= delivered.relayed_output);
            prop_assert!(content_relayed || charge.amount == NanoDollars::ZERO);
        }
    }
}
