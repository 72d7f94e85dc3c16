//! `darkbloom models`: model files of this machine.

mod shown;

use std::collections::BTreeSet;
use std::path::PathBuf;

use darkbloom_client::{CANDIDATES_DEFAULT, Client, Config as ClientConfig, ModelOffer, printable};
use darkbloom_provider::models::{
    ChooseError, DownloadError, FoundModel, Hub, HubOptions, Inventory, Match, NameError, Offered, Order, Places,
    RemoveError, RepositoryName, Waits, Wanted, download, hugging_face_cache, read_manifest, remove, scan,
};
use darkbloom_types::{Digest, SecretString, Tier};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::arguments::{CatalogueSource, Download, ModelPlaces, Models, ModelsAction};
use crate::error::{Failure, say};
use crate::roles::{default_data, parsed};
use crate::settings::ProviderSettings;
use shown::{Line, bytes, model_as_json, model_as_text};

/// `darkbloom models`.
pub async fn run(options: Models, settings: ProviderSettings) -> Result<(), Failure> {
    match options.action {
        ModelsAction::List { places, json } => {
            let places = all_places(places, &settings);
            let inventory = blocking(move || scan(&places)).await;
            inventory.models.iter().try_for_each(|model| {
                say(if json { model_as_json(model).to_string() } else { model_as_text(model) })
            })?;
            remarks(&inventory, json)
        }
        ModelsAction::Catalog { coordinator, places, hash, json } => {
            let places = all_places(places, &settings);
            catalog(coordinator, &settings, places, hash, json).await
        }
        ModelsAction::Download(options) => get(options, &settings).await,
        ModelsAction::Remove { name, models, json } => {
            let models = own_folder(models, &settings);
            let removing = name.clone();
            let removed =
                blocking(move || remove(&models, &removing)).await.map_err(|error| not_removed(&error, &name))?;
            if json {
                return say(json!({"removed": removed.files, "bytes": removed.bytes}).to_string());
            }
            for path in &removed.files {
                say(format!("removed {}", printable(&path.to_string_lossy())))?;
            }
            say(format!("{} freed", bytes(removed.bytes)))
        }
    }
}

/// Runs what waits for the disk where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("work with files does not panic")
}

fn own_folder(given: Option<PathBuf>, settings: &ProviderSettings) -> PathBuf {
    given.or_else(|| settings.models.clone()).unwrap_or_else(|| default_data("models"))
}

fn all_places(given: ModelPlaces, settings: &ProviderSettings) -> Places {
    let own = own_folder(given.models, settings);
    let folders = settings.model_folders.iter().cloned().chain(given.folders).collect();
    Places { own, cache: hugging_face_cache(|name| std::env::var_os(name)), folders }
}

/// What was passed over.
fn remarks(inventory: &Inventory, json: bool) -> Result<(), Failure> {
    for skipped in &inventory.skipped {
        let path = skipped.path.to_string_lossy();
        say(if json {
            json!({"skipped": path, "why": skipped.why}).to_string()
        } else {
            format!("passed over {}: {}", printable(&path), printable(&skipped.why))
        })?;
    }
    if inventory.cut && !json {
        say("there is more than is looked at; name fewer folders")?;
    }
    if inventory.models.is_empty() && !json {
        say("no models were found; `darkbloom models download OWNER/NAME` gets one")?;
    }
    Ok(())
}

/// What the coordinator offers, verified under its pin: the one that the provider keeps.
async fn offers(source: CatalogueSource, settings: &ProviderSettings) -> Result<Vec<ModelOffer>, Failure> {
    let coordinator = source.coordinator.or_else(|| settings.coordinator.clone());
    let coordinator =
        coordinator.ok_or_else(|| Failure::new("no coordinator is given", "add `--coordinator https://HOST`"))?;
    let network = match source.coordinator_key {
        Some(network) => Some(network),
        None => parsed(settings.coordinator_key.clone(), "coordinator_key")?,
    };
    let data = source.data.or_else(|| settings.data.clone()).unwrap_or_else(|| default_data("provider"));
    if network.is_none() {
        std::fs::create_dir_all(&data).map_err(|error| {
            let message = format!("cannot create {}: {error}", data.display());
            Failure::new(message, "give the coordinator's pin with `--coordinator-key`")
        })?;
    }
    let pin_file = network.is_none().then(|| data.join("coordinator.pin"));
    // Nothing is sealed to anybody: neither tiers nor candidates matter.
    let config = ClientConfig {
        coordinator,
        network,
        pin_file,
        tier_min: Tier::Hardware,
        pinned: BTreeSet::new(),
        hardware: darkbloom_client::HardwareTrust::default(),
        candidates: CANDIDATES_DEFAULT,
        receipts: None,
    };
    Ok(Client::new(config)?.models().await?)
}

/// `darkbloom models catalog`.
async fn catalog(
    source: CatalogueSource,
    settings: &ProviderSettings,
    places: Places,
    hash: bool,
    json: bool,
) -> Result<(), Failure> {
    let offers = offers(source, settings).await?;
    let inventory = blocking(move || scan(&places)).await;
    let matched = blocking(move || {
        let hashed: Vec<_> = inventory.models.iter().map(|model| if hash { root_of(model) } else { None }).collect();
        let matches = |offer: &ModelOffer| {
            let entry = &offer.entry;
            let offered =
                Offered { weights: entry.weights, text_pack: entry.text_pack, quantisation: &entry.quantisation };
            let found =
                inventory.models.iter().zip(&hashed).map(|(model, root)| (model, model.matches(&offered, *root)));
            let found = found.filter(|(_, found)| *found != Match::No);
            found.map(|(model, found)| (model.path.clone(), found)).collect::<Vec<_>>()
        };
        offers.into_iter().map(|offer| (matches(&offer), offer)).collect::<Vec<_>>()
    });
    for (found, offer) in matched.await {
        say(if json {
            shown::offer_as_json(&offer, &found).to_string()
        } else {
            shown::offer_as_text(&offer, &found, hash)
        })?;
    }
    Ok(())
}

/// The weights root of a model that can be loaded.
fn root_of(model: &FoundModel) -> Option<Digest> {
    model.header.as_ref().ok()?;
    let mut line = Line::new(false);
    let (mut done, total) = (0, model.bytes);
    let manifest = read_manifest(&model.path, |more| {
        done += more;
        line.note(&format!("hashing {}: {} of {}", printable(&model.name), bytes(done), bytes(total)));
    });
    line.end();
    manifest.ok().map(|manifest| manifest.root)
}

/// `darkbloom models download`.
async fn get(options: Download, settings: &ProviderSettings) -> Result<(), Failure> {
    let name = |error: NameError, what: &str, text: &str| {
        let message = format!("{what} `{}` is not usable: {error}", printable(text));
        Failure::new(message, "give the repository as OWNER/NAME, as on the hub's page")
    };
    let repository: RepositoryName =
        options.repository.parse().map_err(|error| name(error, "the repository's name", &options.repository))?;
    let revision = options.revision.parse().map_err(|error| name(error, "the revision", &options.revision))?;
    let weights = match &options.offered {
        Some(offered) => Some(weights_of_offer(offered, options.coordinator, settings).await?),
        None => None,
    };
    let token = options.token.filter(|token| !token.is_empty()).map(SecretString::new);
    let hub = Hub::new(HubOptions { endpoint: options.endpoint, token, waits: Waits::default() }).map_err(failed)?;
    let listing = hub.listing(&repository, &revision).await.map_err(failed)?;
    let wanted = match (&options.file, weights) {
        (Some(file), _) => Wanted::Named(file),
        (None, Some(root)) => Wanted::Weights(root),
        (None, None) => Wanted::Only,
    };
    let file = listing.choose(wanted).map_err(DownloadError::from).map_err(failed)?;
    let models = own_folder(options.models, settings);
    let order = Order { repository, commit: listing.commit, file, weights, models };
    let mut line = Line::new(options.json);
    if !options.json {
        line.say(&format!("{} of {}, {}", order.file.path, order.repository, bytes(order.file.size)));
    }
    let done = download(&hub, &order, |event| line.event(&event)).await;
    line.end();
    let done = done.map_err(failed)?;
    if options.json {
        return say(
            json!({"event": "done", "path": done.path, "weights": done.weights, "already": done.already}).to_string()
        );
    }
    say(format!("{}  {}", if done.already { "is there" } else { "verified" }, done.path.display()))?;
    say(format!("weights   {}", done.weights))?;
    say(format!("serve it  darkbloom start --foreground --model {}", done.path.display()))
}

async fn weights_of_offer(name: &str, source: CatalogueSource, settings: &ProviderSettings) -> Result<Digest, Failure> {
    let offers = offers(source, settings).await?;
    let found = offers.iter().find(|offer| offer.entry.name == name).map(|offer| offer.entry.weights);
    found.ok_or_else(|| {
        let message = format!("the coordinator offers no model `{}`", printable(name));
        Failure::new(message, "`darkbloom models catalog` shows what it offers")
    })
}

/// A failure in words of which some are the hub's.
fn failed(error: DownloadError) -> Failure {
    // Each name on a line of its own can be copied.
    if let DownloadError::Choose(ChooseError::Several { names, .. }) = &error {
        let names: Vec<_> = names.iter().map(|name| format!("  --file {}", printable(name))).collect();
        return Failure::new("the repository has several GGUF files", format!("choose one:\n{}", names.join("\n")));
    }
    Failure::new(printable(&error.to_string()), error.hint())
}

/// Why nothing was removed. What lies in the Hugging Face cache is its own program's to remove.
fn not_removed(error: &RemoveError, name: &str) -> Failure {
    let failure = Failure::new(printable(&error.to_string()), error.hint());
    let mut parts = name.split('/');
    let (Some(owner), Some(repository)) = (parts.next(), parts.next()) else { return failure };
    let cache = hugging_face_cache(|name| std::env::var_os(name));
    let sound = format!("{owner}/{repository}").parse::<RepositoryName>().is_ok();
    let cached = sound && cache.is_some_and(|cache| cache.join(format!("models--{owner}--{repository}")).is_dir());
    if cached && matches!(error, RemoveError::NotFound { .. }) {
        return failure.with_hint(format!(
            "it is in the Hugging Face cache; `hf cache rm model/{owner}/{repository}` removes it"
        ));
    }
    failure
}
