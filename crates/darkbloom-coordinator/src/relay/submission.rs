//! Reading a submission: everything that can be refused before any money moves.

use darkbloom_ledger::{Spender, worst_case};
use darkbloom_store::KeyRecord;
use darkbloom_types::{AccountId, Refusal, RefusalCode, Tier};
use darkbloom_wire::{ClientFrame, Decoded, LengthPrefixed, SealedHeader, Submit, limits, recipient_list_digest};

use crate::catalogue::Item;
use crate::rates::Limits;
use crate::state::Shared;
use darkbloom_host::clock;

/// A request that was read and found sound.
pub struct Request {
    pub header: SealedHeader,
    pub submit: Submit,
    pub item: Item,
    pub account: AccountId,
    pub key: KeyRecord,
}

impl Request {
    /// The rates that it counts against.
    pub fn limits(&self, shared: &Shared) -> [(Spender, Limits); 2] {
        shared.limits(&self.key, self.account)
    }

    /// The least tier of who may answer it: what it asks for itself, what its key demands, what the network does.
    pub fn tier_min(&self, network: Tier) -> Tier {
        network.max(self.header.tier_min).max(self.key.terms.tier_min.unwrap_or(Tier::None))
    }

    /// Tokens that it may use.
    pub fn tokens(&self) -> u32 {
        self.header.input_ceiling.0.saturating_add(self.header.output_ceiling.0)
    }
}

/// Reads a submission and compares it with what this network offers. Nothing is trusted but the key.
pub fn read(shared: &Shared, key: KeyRecord, body: &[u8]) -> Result<Request, Refusal> {
    let invalid = |detail: String| Refusal::new(RefusalCode::InvalidRequest, detail);
    let mut frames = LengthPrefixed::default();
    frames.push(body);
    let frame = frames.next_frame().map_err(|error| invalid(error.to_string()))?;
    let frame = frame.ok_or_else(|| invalid("the body holds no whole frame".to_owned()))?;
    let decoded = ClientFrame::decode(frame).map_err(|error| invalid(error.to_string()))?;
    let Decoded::Known(ClientFrame::Submit(submit), _) = decoded else {
        return Err(Refusal::new(RefusalCode::Unsupported, "the frame is of an unknown kind"));
    };
    if !frames.is_empty() {
        return Err(invalid("bytes follow the frame".to_owned()));
    }
    let header = SealedHeader::decode(&submit.header).map_err(|error| invalid(format!("header: {error}")))?;
    if header.network != shared.network {
        return Err(RefusalCode::WrongNetwork.into());
    }
    let now = clock::now();
    if header.sealed_at.distance(now) > limits::CLOCK_SKEW_MAX {
        let detail = format!("the request says {}, the coordinator's clock {}", header.sealed_at.0, now.0);
        return Err(Refusal::new(RefusalCode::ClockSkew, detail));
    }
    let wraps = &submit.wraps.0;
    if wraps.is_empty() || recipient_list_digest(wraps.iter().map(|w| (&w.provider, &w.epoch))) != header.recipients {
        return Err(invalid("the wraps are not those of the header's recipient list".to_owned()));
    }
    let account = key.account.ok_or_else(|| Refusal::new(RefusalCode::Forbidden, "the key has no account"))?;
    let item = shared.catalogue().by_digest_for(&header.model, account);
    let item = item.ok_or_else(|| Refusal::from(RefusalCode::ModelNotFound))?;
    if !key.terms.allows_model(&item.entry.name) {
        return Err(Refusal::new(RefusalCode::Forbidden, "this key may not ask that model"));
    }
    let asked = u64::from(header.input_ceiling.0) + u64::from(header.output_ceiling.0);
    if header.output_ceiling.0 == 0 || header.output_ceiling > item.entry.context {
        let detail = format!("an answer has 1 to {} tokens", item.entry.context);
        return Err(Refusal::new(RefusalCode::ContextLengthExceeded, detail));
    }
    // The input ceiling is rounded up to a bucket, so twice the context is the most that can be meant.
    if asked > 2 * u64::from(item.entry.context.0) + 4_096 {
        let detail = format!("{asked} tokens, the model takes {}", item.entry.context);
        return Err(Refusal::new(RefusalCode::ContextLengthExceeded, detail));
    }
    let worst = worst_case(item.price, header.input_ceiling, header.output_ceiling)
        .map_err(|error| invalid(error.to_string()))?;
    if header.price_version != item.price.version || header.price_max < worst {
        let detail = format!("version {} is current, and the worst case costs {worst}", item.price.version);
        return Err(Refusal::new(RefusalCode::PriceChanged, detail));
    }
    Ok(Request { header, submit, item, account, key })
}
