//! A model's weights in memory, before there is memory for rows.

use std::fs::File;
use std::io::Seek as _;
use std::sync::Arc;

use super::exact::Needs;
use super::pages::Regions;
use super::raw::{Context, ContextSettings, LoadWays, Model};
use super::{
    Adapter, Exactness, LlamaSettings, LoadModelError, adapter, check_open_adapters, check_open_model_file,
    check_settings, row_cells, runs_on_accelerator, unreadable,
};
use crate::ModelHeader;

/// A model that was checked and loaded, with the adapters that change it.
pub(super) struct Loaded {
    pub(super) model: Arc<Model>,
    pub(super) header: ModelHeader,
    pub(super) needs: Needs,
    on_accelerator: bool,
    /// Before it was loaded.
    memory_before: Regions,
}

impl Loaded {
    /// Checks the files and the settings, and loads the weights.
    pub(super) fn open(
        mut file: File,
        adapters: Vec<Adapter>,
        settings: &LlamaSettings,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self, LoadModelError> {
        check_settings(settings)?;
        let on_accelerator = runs_on_accelerator(settings)?;
        let header = check_open_model_file(&file)?;
        let (trained, exact) = (header.context_length, settings.exactness == Exactness::Exact);
        let added = adapters.iter().map(|adapter| (&adapter.file, adapter.scale));
        let changes = check_open_adapters(added, &header, settings.exactness)
            .map_err(|(at, source)| LoadModelError::Adapter { at, source })?;
        let types = changes.iter().fold(header.tensor_types, |types, change| types.and(change.tensor_types));
        let needs = if exact { Needs::of(types) } else { Needs::default() };
        if settings.row_tokens_max as u64 > trained {
            return Err(LoadModelError::ContextTooLong { asked: settings.row_tokens_max, trained });
        }
        file.rewind().map_err(unreadable)?;
        let mut ended = false;
        let memory_before = Regions::now();
        let mut begun = false;
        let mut heard = |done| {
            // The first time, the weights have their memory, and nothing was read into it.
            if !std::mem::replace(&mut begun, true) {
                memory_before.ask_for_large_pages_since();
            }
            let goes_on = progress(done);
            ended |= !goes_on;
            goes_on
        };
        let ways = LoadWays { on_accelerator, map_weights: settings.map_weights, repack: !needs.as_stored };
        let model = Model::load(file, ways, &mut heard);
        let mut model = model.ok_or(if ended { LoadModelError::Ended } else { LoadModelError::Refused })?;
        if !model.is_plain_decoder() || model.vocabulary() == 0 {
            return Err(LoadModelError::UnsupportedKind);
        }
        adapter::add_all(&mut model, adapters)?;
        Ok(Self { model: Arc::new(model), header, needs, on_accelerator, memory_before })
    }

    /// Takes the memory for all rows. With `states` each token's last state is kept, otherwise the logits of so many outputs.
    pub(super) fn context(
        &self,
        settings: &LlamaSettings,
        outputs: usize,
        states: bool,
    ) -> Result<Context, LoadModelError> {
        let settings = ContextSettings {
            sequences: settings.rows_max,
            sequence_cells: row_cells(&self.header, settings.row_tokens_max),
            // And room for the tokens that fill idle slots or keep a row's last company.
            batch_tokens: settings.step_tokens_max + settings.rows_max,
            outputs,
            threads: settings.threads,
            on_accelerator: self.on_accelerator,
            unlike_keys: settings.exactness == Exactness::Exact,
            no_tiles: self.needs.no_tiles,
            states,
        };
        let context = Context::new(Arc::clone(&self.model), &settings).ok_or(LoadModelError::Context)?;
        self.memory_before.make_large_pages_since();
        Ok(context)
    }

    /// Tokens that a row holds: whatever keeps its last token company takes the place after it.
    pub(super) fn row_tokens_max(&self, settings: &LlamaSettings) -> usize {
        settings.row_tokens_max - usize::from(self.needs.company)
    }
}
