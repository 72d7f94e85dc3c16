//! `darkbloom key`: this machine's identity as a provider.

use std::path::PathBuf;

use darkbloom_provider::keys::{
    Availability, Check, Home, Identity, IdentityKey as _, KeyConfig, Unsettled, availability, unsettled,
};
use darkbloom_provider::{Rotated, StartError, delete_key, go_back_key, rotate_key, seal_keys};
use darkbloom_types::ProviderId;
use serde_json::{Value, json};

use crate::arguments::{Key, KeyAction, KeyPlace};
use crate::error::{Failure, say};
use crate::roles::{default_data, key_config};
use crate::settings::ProviderSettings;

/// Does what is asked. A TPM may take seconds, and nothing else goes on meanwhile.
pub fn run(options: Key, settings: ProviderSettings) -> Result<(), Failure> {
    match options.action {
        KeyAction::Show(place) => show(&Place::of(place, settings)?),
        KeyAction::Test(place) => test(&Place::of(place, settings)?),
        KeyAction::Rotate { place, to, back } => {
            let place = Place::of(place, settings)?;
            if back { go_back(&place) } else { replace(&place, to) }
        }
        KeyAction::Seal(place) => seal(&Place::of(place, settings)?),
        KeyAction::Delete { place, yes } => forget(&Place::of(place, settings)?, yes),
    }
}

/// Where the key is, and how people want to read about it.
struct Place {
    data: PathBuf,
    config: KeyConfig,
    json: bool,
}

impl Place {
    fn of(place: KeyPlace, settings: ProviderSettings) -> Result<Self, Failure> {
        let data = place.data.or_else(|| settings.data.clone()).unwrap_or_else(|| default_data("provider"));
        let config = key_config(place.keys, &settings)?;
        Ok(Self { data, config, json: place.json })
    }

    fn identity(&self) -> Result<Identity, Failure> {
        let failed =
            |error: darkbloom_provider::keys::IdentityError| Failure::new(error.to_string(), error.next_step());
        let missing = || {
            Failure::new(
                format!("there is no identity in {}", self.data.display()),
                "`darkbloom start` makes one; name its folder with `--data`",
            )
        };
        Identity::existing(&self.data, &self.config).map_err(failed)?.ok_or_else(missing)
    }
}

fn show(place: &Place) -> Result<(), Failure> {
    let identity = place.identity()?;
    let point = identity.public_point();
    let id = ProviderId::of_public_key(&point);
    let other = unsettled(&place.data).map_err(|error| Failure::new(error.to_string(), error.next_step()))?;
    let bound = identity.tpm().map_or(&[][..], |key| key.bound_to());
    if place.json {
        let shown = json!({
            "provider": id, "home": identity.home().name(), "public_key": hex::encode(point), "key_pcrs": bound,
            "data": place.data, "other_key": other.map(|other| match other {
                Unsettled::Older => "older",
                Unsettled::Newer => "newer",
            }),
        });
        return say(shown.to_string());
    }
    say(format!("provider    {id}"))?;
    say(format!("home        {}", identity.home().describe()))?;
    say(format!("public key  {}", hex::encode(point)))?;
    if !bound.is_empty() {
        let bound: Vec<_> = bound.iter().map(u32::to_string).collect();
        say(format!("registers   signs only while {} have the values of when it was made", bound.join(", ")))?;
    }
    match other {
        Some(Unsettled::Older) => say(
            "before      the older key is kept until the coordinator has accepted this one; `darkbloom key rotate --back` goes back to it",
        )?,
        Some(Unsettled::Newer) => say(
            "after       a newer key is kept until the coordinator has accepted this one; `darkbloom key rotate` goes on to it",
        )?,
        None => {}
    }
    say(format!("data        {}", place.data.display()))
}

fn test(place: &Place) -> Result<(), Failure> {
    let identity = place.identity()?;
    let failed = |error: darkbloom_provider::keys::IdentityError| Failure::new(error.to_string(), error.next_step());
    identity.test().map_err(failed)?;
    if place.json {
        return say(json!({"home": identity.home().name(), "works": true}).to_string());
    }
    say(format!("the key signs, and its signature verifies ({})", identity.home().describe()))
}

fn failed(error: StartError) -> Failure {
    Failure::new(error.to_string(), error.hint())
}

fn replace(place: &Place, to: Option<Home>) -> Result<(), Failure> {
    let Rotated { before, identity } = rotate_key(&place.data, &place.config, to).map_err(failed)?;
    let id = ProviderId::of_public_key(&identity.public_point());
    if place.json {
        return say(json!({"provider": id, "before": before, "home": identity.home().name()}).to_string());
    }
    say(format!("provider    {id}"))?;
    say(format!("home        {}", identity.home().describe()))?;
    say(format!("took over   from {}, whose key stays until the coordinator has accepted this one", named(before)))?;
    say(
        "The coordinator learns it when `darkbloom start` connects next, without a join token. Consumers' pins of the old identity",
    )?;
    say(
        "hold for this one and the next three. It refuses a key that two machines were seen with: its operator has to trust that first.",
    )
}

fn named(before: Option<ProviderId>) -> String {
    before.map_or_else(|| "an identity whose key cannot be used now".to_owned(), |before| before.to_string())
}

fn go_back(place: &Place) -> Result<(), Failure> {
    let Rotated { before, identity } = go_back_key(&place.data, &place.config).map_err(failed)?;
    let id = ProviderId::of_public_key(&identity.public_point());
    if place.json {
        return say(json!({"provider": id, "before": before, "home": identity.home().name()}).to_string());
    }
    say(format!("provider    {id}"))?;
    say(format!("home        {}", identity.home().describe()))?;
    say(format!("went back   from {}, whose key stays until the coordinator has accepted this one", named(before)))?;
    say("Where the coordinator had accepted that one already, it refuses this one: go on with `darkbloom key rotate`.")
}

fn forget(place: &Place, yes: bool) -> Result<(), Failure> {
    if !yes {
        return Err(Failure::new(
            format!(
                "this ends the identity in {}: its coordinator will not know this machine any more",
                place.data.display()
            ),
            "say so with `--yes`",
        ));
    }
    delete_key(&place.data, &place.config).map_err(failed)?;
    if place.json { say(json!({"deleted": true}).to_string()) } else { say("there is no identity here any more") }
}

fn seal(place: &Place) -> Result<(), Failure> {
    let secret = place.config.secret.as_deref().ok_or_else(|| {
        Failure::new("there is nothing to encrypt keys under", "name a file with a secret with `--key-secret`")
    })?;
    let sealed = seal_keys(&place.data, secret).map_err(failed)?;
    if place.json {
        return say(json!({"sealed": sealed}).to_string());
    }
    if sealed.is_empty() {
        return say(format!("no key lies in the open in {}", place.data.display()));
    }
    sealed.iter().try_for_each(|path| say(format!("encrypted   {}", path.display())))?;
    say("a disk and its backups may still hold what was in these files before")
}

/// What `doctor` says about keys: each home, and three things apart.
pub fn availabilities(place: KeyPlace, settings: ProviderSettings) -> Result<Vec<Availability>, Failure> {
    let place = Place::of(place, settings)?;
    Ok(Home::ALL.into_iter().map(|home| availability(home, &place.data, &place.config)).collect())
}

/// One home as JSON.
pub fn as_json(found: &Availability) -> Value {
    let check = |check: &Check| match check {
        Check::Yes(what) => json!({"is": true, "what": what}),
        Check::No { reason, next_step } => json!({"is": false, "reason": reason, "next_step": next_step}),
        Check::NotAsked => Value::Null,
    };
    json!({
        "home": found.home.name(), "hardware_present": check(&found.hardware), "program_entitled": check(&found.entitled),
        "key_usable": check(&found.usable),
    })
}

/// One home in words.
pub fn in_words(found: &Availability) -> Vec<String> {
    let line = |name: &str, check: &Check| match check {
        Check::Yes(what) => Some(format!("  {name:<17} yes: {what}")),
        Check::No { reason, next_step } => Some(format!("  {name:<17} no: {reason}\n  {:<17} {next_step}", "")),
        Check::NotAsked => None,
    };
    let mut lines = vec![format!("key home     {}", found.home.name())];
    let checks =
        [("hardware present", &found.hardware), ("program entitled", &found.entitled), ("key usable", &found.usable)];
    lines.extend(checks.into_iter().filter_map(|(name, check)| line(name, check)));
    lines
}
