//! Reading the coordinator's answers in JSON: pure, so that it can be fuzzed as it stands. Nothing is believed but what
//! the coordinator's key signed, and prices, which a signed candidate list repeats.

use darkbloom_attest::verify_coordinator;
use darkbloom_types::{CatalogueDigest, NetworkId, Price, Refusal, RefusalCode};
use darkbloom_wire::{CatalogueEntry, PublicKey, catalogue_digest};
use serde::Deserialize;

/// One model on offer, its entry verified.
#[derive(Debug, Clone)]
pub struct ModelOffer {
    /// Its digest.
    pub digest: CatalogueDigest,
    /// What the operator signed.
    pub entry: CatalogueEntry,
    /// The price, as the coordinator says; a candidate list has it signed.
    pub price: Price,
}

/// What is known of the coordinator.
#[derive(Debug, Clone)]
pub struct Coordinator {
    /// The network.
    pub network: NetworkId,
    /// Its key.
    pub key: PublicKey,
}

/// Who says to be the coordinator, with a proof that is not verified yet.
pub struct Introduction {
    /// The network of the key that it names.
    pub network: NetworkId,
    point: [u8; 65],
    proof: Option<String>,
}

impl Introduction {
    /// Reads the answer to `GET /v1/network`.
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Answer {
            coordinator_key: String,
            proof: Option<String>,
        }
        let answer: Answer = serde_json::from_slice(body).map_err(|_| lie("no description of a network"))?;
        let mut point = [0; 65];
        hex::decode_to_slice(&answer.coordinator_key, &mut point)
            .map_err(|_| lie("the coordinator's key is not a key"))?;
        Ok(Self { network: NetworkId::of_coordinator_key(&point), point, proof: answer.proof })
    }

    /// The coordinator, when it proves to hold the key that it names, freshly for this nonce.
    pub fn prove(self, nonce: &[u8; 32]) -> Result<Coordinator, Refusal> {
        let network = self.network;
        let unproven = |why: &dyn std::fmt::Display| {
            let detail = format!("who answers is not shown to be the coordinator of {network}: {why}");
            Refusal::new(RefusalCode::WrongNetwork, detail)
        };
        let proof = self.proof.ok_or_else(|| unproven(&"no proof came"))?;
        let proof = hex::decode(&proof).map_err(|_| unproven(&"its proof is not one"))?;
        verify_coordinator(&proof, &self.point, nonce).map_err(|error| unproven(&error))?;
        Ok(Coordinator { network, key: PublicKey::P256(self.point) })
    }
}

/// Reads the answer to `GET /v1/catalogue`; every entry is verified.
pub fn read_catalogue(body: &[u8], coordinator: &Coordinator) -> Result<Vec<ModelOffer>, Refusal> {
    #[derive(Deserialize)]
    struct Answer {
        models: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        entry: String,
        price: PriceAnswer,
    }
    #[derive(Deserialize)]
    struct PriceAnswer {
        version: u32,
        input_nano_per_token: u32,
        output_nano_per_token: u32,
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| lie("no catalogue"))?;
    let offer = |item: Item| {
        let signed = hex::decode(&item.entry).map_err(|_| lie("a catalogue entry is not one"))?;
        let entry = open_entry(&signed, coordinator)?;
        let PriceAnswer { version, input_nano_per_token, output_nano_per_token } = item.price;
        let price = Price { version, input_nano_per_token, output_nano_per_token };
        Ok(ModelOffer { digest: catalogue_digest(&signed), entry, price })
    };
    answer.models.into_iter().map(offer).collect()
}

/// Verifies a catalogue entry and that it is of this network.
pub fn open_entry(signed: &[u8], coordinator: &Coordinator) -> Result<CatalogueEntry, Refusal> {
    let entry =
        CatalogueEntry::open(signed, &coordinator.key).map_err(|error| lie(format!("catalogue entry: {error}")))?;
    if entry.network == coordinator.network { Ok(entry) } else { Err(lie("a catalogue entry of another network")) }
}

/// The refusal that an error's body names, where it names one.
pub fn read_refusal(body: &[u8]) -> Option<RefusalCode> {
    #[derive(Deserialize)]
    struct Answer {
        error: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        code: String,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    RefusalCode::ALL.iter().find(|code| code.name() == answer.error.code).copied()
}

/// What is no answer of an honest coordinator.
fn lie(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::VerificationFailed, detail)
}
