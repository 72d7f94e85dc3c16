//! The part of llama.cpp's C interface that the executor needs, made safe: owned pointers, checked lengths.
//!
//! Two things decide whether a call can take the process down, and both are kept from happening here or in the callers:
//! `GGML_ASSERT`, which aborts (a batch longer than the context was made for, a sequence number out of range), and C++
//! exceptions, which must not cross into Rust (llama.cpp catches them itself while loading and making contexts).

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::fs::File;
use std::ops::Range;
use std::os::fd::IntoRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use llama_cpp_sys_2 as sys;
use zeroize::Zeroize as _;

use super::exact;
use crate::devices::Device;

/// Most sequences of a context: llama.cpp's own limit, beyond which it aborts.
pub(super) const SEQUENCES_MAX: usize = 256;

unsafe extern "C" fn discard_log(_level: sys::ggml_log_level, _text: *const c_char, _user: *mut c_void) {}

/// Once in the process: no log (it could show file names, never content, but nobody reads it), then the backends.
fn start_backend() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the callback has static lifetime and ignores its arguments; initialising comes before every other
        // call, since every path to one leads through `Model::load`.
        unsafe {
            sys::llama_log_set(Some(discard_log), ptr::null_mut());
            sys::llama_backend_init();
        }
    });
}

/// Whether the computation is to end; `flag` is a context's.
unsafe extern "C" fn is_interrupted(flag: *mut c_void) -> bool {
    // SAFETY: the pointer is to the flag that the context owns, which lives as long as the context computes.
    unsafe { (*flag.cast::<AtomicBool>()).load(Ordering::Relaxed) }
}

/// A text of llama.cpp's that lives as long as the process.
///
/// # Safety
/// The pointer is null or to a C string that is never freed.
unsafe fn lasting_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller has made sure of it.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Every device of this machine that this build can use.
pub(crate) fn devices() -> Vec<Device> {
    start_backend();
    // SAFETY: the backends are started, and every index is below the count. A device lives as long as the process, and so do
    // its texts.
    unsafe {
        let read = |index| {
            let device = sys::ggml_backend_dev_get(index);
            let (mut free, mut total) = (0, 0);
            sys::ggml_backend_dev_memory(device, &mut free, &mut total);
            let kind = sys::ggml_backend_dev_type(device);
            Device {
                name: lasting_text(sys::ggml_backend_dev_name(device)),
                description: lasting_text(sys::ggml_backend_dev_description(device)),
                is_accelerator: matches!(kind, sys::GGML_BACKEND_DEVICE_TYPE_GPU | sys::GGML_BACKEND_DEVICE_TYPE_IGPU),
                memory: (free as u64, total as u64),
            }
        };
        (0..sys::ggml_backend_dev_count()).map(read).collect()
    }
}

/// How llama.cpp was built and what it uses of this processor, in its own words.
pub(crate) fn system_info() -> String {
    start_backend();
    // SAFETY: the text is llama.cpp's own and is not freed; it is written anew by each call, always with the same words.
    unsafe { lasting_text(sys::llama_print_system_info()) }
}

/// Hears how much of the weights is loaded, from 0 to 1; false ends the loading.
pub(super) type Progress<'a> = &'a mut dyn FnMut(f32) -> bool;

/// Hands llama.cpp's progress on; `progress` points to a [`Progress`].
unsafe extern "C" fn hear_progress(done: f32, progress: *mut c_void) -> bool {
    // SAFETY: the pointer is to the one that `Model::load` keeps over the call, and nobody else uses it meanwhile.
    let progress = unsafe { &mut *progress.cast::<Progress<'_>>() };
    // A panic must not cross into C++; it ends the loading.
    catch_unwind(AssertUnwindSafe(|| progress(done))).unwrap_or(false)
}

/// A file as C knows it, closed when it is dropped.
struct CFile(NonNull<libc::FILE>);

impl CFile {
    /// Nothing when the system has no memory for it.
    fn new(file: File) -> Option<Self> {
        let descriptor = file.into_raw_fd();
        // SAFETY: the descriptor is open and owned here, and the mode is a C string. Only where the call fails it is still
        // to be closed.
        unsafe {
            let stream = NonNull::new(libc::fdopen(descriptor, c"rb".as_ptr()));
            if stream.is_none() {
                libc::close(descriptor);
            }
            stream.map(Self)
        }
    }
}

impl Drop for CFile {
    fn drop(&mut self) {
        // SAFETY: the stream came from `fdopen` and is closed only here.
        unsafe { libc::fclose(self.0.as_ptr()) };
    }
}

/// Puts something beside weights that would be multiplied in tiles, which makes ggml leave that be. Called with each operation
/// before it is computed; asks for no results, so all of them are computed at once as if it were not there.
unsafe extern "C" fn mark_weights(operation: *mut sys::ggml_tensor, _ask: bool, _user: *mut c_void) -> bool {
    static MARK: u8 = 0;
    // SAFETY: llama.cpp passes an operation of the graph that it is about to compute on this thread. Its first source is
    // there for products. The mark is never read, and nobody else looks at what stands beside weights in plain memory; what
    // repacked ones have there stays.
    unsafe {
        let operation = &*operation;
        if operation.op == sys::GGML_OP_MUL_MAT || operation.op == sys::GGML_OP_MUL_MAT_ID {
            let weights = operation.src[0];
            if (*weights).extra.is_null() && exact::is_tiled((*weights).type_) {
                (*weights).extra = ptr::from_ref(&MARK).cast_mut().cast();
            }
        }
    }
    false
}

/// How weights are loaded.
#[derive(Clone, Copy)]
pub(super) struct LoadWays {
    /// Onto an accelerator.
    pub(super) on_accelerator: bool,
    /// Mapped from the file instead of read.
    pub(super) map_weights: bool,
    /// Into another order of their numbers, where that makes products faster.
    pub(super) repack: bool,
}

/// A loaded model and the adapters that change it.
pub(super) struct Model {
    model: NonNull<sys::llama_model>,
    /// Each with how much of it is added. llama.cpp frees them with the model.
    adapters: Vec<(NonNull<sys::llama_adapter_lora>, f32)>,
}

// SAFETY: a model is written to through `&mut` only; llama.cpp lets contexts on different threads read it.
unsafe impl Send for Model {}
// SAFETY: as above; the methods of `Model` that take `&self` only read.
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the pointer came from loading and is freed only here; contexts hold the model alive.
        unsafe { sys::llama_model_free(self.model.as_ptr()) }
    }
}

impl Model {
    /// Loads the weights from a file that stands at its beginning. Nothing when llama.cpp refuses the file, or
    /// `progress` ends it.
    pub(super) fn load(file: File, ways: LoadWays, mut progress: Progress<'_>) -> Option<Self> {
        let LoadWays { on_accelerator, map_weights, repack } = ways;
        start_backend();
        let file = CFile::new(file)?;
        // SAFETY: the parameters are llama.cpp's defaults with plain values changed; the file is open, and both it and what
        // hears the progress live over the call. Loading catches its own exceptions and returns null.
        let model = unsafe {
            let mut parameters = sys::llama_model_default_params();
            // All of them: a model that is cut in two is no faster than its slower part.
            parameters.n_gpu_layers = if on_accelerator { i32::MAX } else { 0 };
            // Otherwise none is to be touched: llama.cpp would hand large products to one all the same.
            let mut none = [ptr::null_mut()];
            if !on_accelerator {
                parameters.devices = none.as_mut_ptr();
            }
            parameters.load_mode = if map_weights { sys::LLAMA_LOAD_MODE_MMAP } else { sys::LLAMA_LOAD_MODE_NONE };
            // Also looks at each block's scale, so that damaged weights are refused and not computed with.
            parameters.check_tensors = true;
            parameters.use_extra_bufts = repack;
            parameters.progress_callback = Some(hear_progress);
            parameters.progress_callback_user_data = ptr::from_mut(&mut progress).cast();
            sys::llama_model_load_from_file_ptr(file.0.as_ptr().cast(), parameters)
        };
        NonNull::new(model).map(|model| Self { model, adapters: Vec::new() })
    }

    /// Adds so much of an adapter, from a file that stands at its beginning, in every context that is made afterwards. Whether
    /// llama.cpp takes it. Its header has to be checked against the model's before: what does not fit aborts the process later.
    pub(super) fn add_adapter(&mut self, file: File, scale: f32) -> bool {
        let Some(file) = CFile::new(file) else { return false };
        // SAFETY: the model is alive and, as `&mut` says, no context computes with it; the file is open over the call, which
        // catches its own exceptions and returns null, and keeps nothing of the file.
        let adapter =
            unsafe { sys::llama_adapter_lora_init_from_file_ptr(self.model.as_ptr(), file.0.as_ptr().cast()) };
        let adapter = NonNull::new(adapter);
        self.adapters.extend(adapter.map(|adapter| (adapter, scale)));
        adapter.is_some()
    }

    /// Whether one forward gives the next token and the memory can be cleared by sequence: a plain decoder.
    pub(super) fn is_plain_decoder(&self) -> bool {
        let model = self.model.as_ptr();
        // SAFETY: the model is alive; these only read.
        unsafe {
            sys::llama_model_has_decoder(model)
                && !sys::llama_model_has_encoder(model)
                && !sys::llama_model_is_recurrent(model)
                && !sys::llama_model_is_hybrid(model)
                && !sys::llama_model_is_diffusion(model)
        }
    }

    /// Whether some layers look back over a window only: what lies before it is not kept, so a sequence cannot be cut back.
    pub(super) fn has_window(&self) -> bool {
        // SAFETY: the model is alive; this only reads.
        unsafe { sys::llama_model_n_swa(self.model.as_ptr()) > 0 }
    }

    /// Tokens in the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        // SAFETY: the model is alive; the vocabulary is part of it and is only read.
        let tokens = unsafe { sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.model.as_ptr())) };
        usize::try_from(tokens).unwrap_or(0)
    }

    /// How many numbers a token's last state has.
    fn state_width(&self) -> usize {
        // SAFETY: the model is alive; this only reads.
        usize::try_from(unsafe { sys::llama_model_n_embd_out(self.model.as_ptr()) }).unwrap_or(0)
    }

    /// Tokens that the model file names as ends of a generation.
    pub(super) fn end_tokens(&self) -> Vec<u32> {
        // SAFETY: as above; every id asked about is below the vocabulary's size.
        let ends = |token: u32| unsafe {
            sys::llama_vocab_is_eog(sys::llama_model_get_vocab(self.model.as_ptr()), token.cast_signed())
        };
        (0..u32::try_from(self.vocabulary()).unwrap_or(0)).filter(|&token| ends(token)).collect()
    }
}

/// How a context is made.
pub(super) struct ContextSettings {
    pub(super) sequences: usize,
    /// Of each; a multiple of 256.
    pub(super) sequence_cells: usize,
    pub(super) batch_tokens: usize,
    pub(super) outputs: usize,
    pub(super) threads: usize,
    pub(super) on_accelerator: bool,
    /// Keys in BF16 beside values in F16; otherwise both in F16.
    pub(super) unlike_keys: bool,
    /// Weights are not multiplied in tiles.
    pub(super) no_tiles: bool,
    /// Each token's last state is kept beside its logits. All of them are outputs then.
    pub(super) states: bool,
}

/// A model's working memory.
pub(super) struct Context {
    context: NonNull<sys::llama_context>,
    memory: sys::llama_memory_t,
    batch_tokens: usize,
    sequences: usize,
    vocabulary: usize,
    state_width: usize,
    /// Read by llama.cpp while it computes; freed after the context.
    interrupt: Arc<AtomicBool>,
    /// Freed after the context that uses it.
    _model: Arc<Model>,
}

// SAFETY: a context has no ties to the thread that made it; it is used by one thread at a time, through `&mut`.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `llama_init_from_model` and is freed only here, before its model.
        unsafe { sys::llama_free(self.context.as_ptr()) }
    }
}

impl Context {
    /// Nothing when llama.cpp refuses, for example for want of memory, or when it gives less than was asked for.
    pub(super) fn new(model: Arc<Model>, settings: &ContextSettings) -> Option<Self> {
        if settings.sequences == 0 || settings.sequences > SEQUENCES_MAX {
            return None;
        }
        let cells = settings.sequences.checked_mul(settings.sequence_cells)?;
        // No batch can be longer than all cells, and llama.cpp grants no more.
        let batch_tokens = settings.batch_tokens.min(cells);
        let cells = u32::try_from(cells).ok()?;
        let batch = u32::try_from(batch_tokens).ok()?;
        let outputs = u32::try_from(settings.outputs.min(batch_tokens)).ok()?;
        let threads = i32::try_from(settings.threads).ok()?;
        let interrupt = Arc::new(AtomicBool::new(false));
        // SAFETY: the parameters are llama.cpp's defaults with plain values changed; the model is alive. Making a
        // context catches its own exceptions and returns null.
        let context = unsafe {
            let mut parameters = sys::llama_context_default_params();
            parameters.n_ctx = cells;
            parameters.n_batch = batch;
            // A decoding step is never cut in two, nor is a prompt's piece.
            parameters.n_ubatch = batch;
            parameters.n_seq_max = settings.sequences as u32;
            parameters.n_outputs_max = outputs;
            parameters.n_threads = threads;
            parameters.n_threads_batch = threads;
            // Each sequence has cells of its own: with shared ones the order of additions depends on the neighbours.
            parameters.kv_unified = false;
            parameters.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_ENABLED;
            parameters.type_k = if settings.unlike_keys { sys::GGML_TYPE_BF16 } else { sys::GGML_TYPE_F16 };
            parameters.type_v = sys::GGML_TYPE_F16;
            // A window's blocks have all cells too: with fewer, where a token lies depends on how its row was fed.
            parameters.swa_full = true;
            parameters.embeddings = settings.states;
            // llama.cpp would add over all texts of a step.
            parameters.pooling_type = sys::LLAMA_POOLING_TYPE_NONE;
            if settings.no_tiles {
                parameters.cb_eval = Some(mark_weights);
            }
            parameters.offload_kqv = settings.on_accelerator;
            parameters.op_offload = settings.on_accelerator;
            parameters.no_perf = true;
            parameters.abort_callback = Some(is_interrupted);
            parameters.abort_callback_data = Arc::as_ptr(&interrupt).cast_mut().cast();
            sys::llama_init_from_model(model.model.as_ptr(), parameters)
        };
        let context = NonNull::new(context)?;
        // SAFETY: the context is alive; these only read.
        let (memory, granted, granted_batch) = unsafe {
            let context = context.as_ptr();
            (sys::llama_get_memory(context), sys::llama_n_ctx_seq(context), sys::llama_n_batch(context))
        };
        let (mut adapters, mut scales): (Vec<_>, Vec<_>) =
            model.adapters.iter().map(|(adapter, scale)| (adapter.as_ptr(), *scale)).unzip();
        if !adapters.is_empty() {
            // SAFETY: the context is alive, and the adapters are its model's, which it keeps; both arrays are as long as the
            // call is told, which copies them. The context was made after them, so that its graphs have room for them.
            unsafe {
                let (adapters, scales, count) = (adapters.as_mut_ptr(), scales.as_mut_ptr(), adapters.len());
                sys::llama_set_adapters_lora(context.as_ptr(), adapters, count, scales);
            }
        }
        let vocabulary = model.vocabulary();
        let context = Self {
            context,
            memory,
            batch_tokens: granted_batch as usize,
            sequences: settings.sequences,
            vocabulary,
            state_width: if settings.states { model.state_width() } else { 0 },
            interrupt,
            _model: model,
        };
        let enough = granted as usize >= settings.sequence_cells && context.batch_tokens >= batch_tokens;
        (enough && !memory.is_null()).then_some(context)
    }

    /// Forgets what a sequence holds from a position on.
    pub(super) fn forget(&mut self, sequence: usize, from: usize) {
        let (Ok(sequence_id), Ok(from)) = (i32::try_from(sequence), i32::try_from(from)) else { return };
        if sequence < self.sequences {
            // SAFETY: the memory belongs to the context, which is alive; the sequence is one of its own. Removing up to
            // the end of a sequence's own cells always succeeds for a plain decoder.
            unsafe { sys::llama_memory_seq_rm(self.memory, sequence_id, from, -1) };
        }
    }

    /// Empties every sequence and writes zeros over all keys and values: forgetting alone leaves them in memory.
    pub(super) fn erase(&mut self) {
        // SAFETY: the memory belongs to the context, which is alive, and no forward runs: that needs the same `&mut`.
        unsafe { sys::llama_memory_clear(self.memory, true) }
    }

    /// While it is set, a forward ends early with 2.
    pub(super) fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt)
    }

    /// What a sequence holds: its keys and values as they are in memory, among other things. Nothing when there is no such
    /// sequence.
    pub(super) fn state(&mut self, sequence: usize) -> Vec<u8> {
        let Some(sequence) = i32::try_from(sequence).ok().filter(|_| sequence < self.sequences) else {
            return Vec::new();
        };
        // SAFETY: the context is alive, the sequence is one of its own, and the buffer is as long as the call is told.
        // Both calls catch their own exceptions.
        unsafe {
            let size = sys::llama_state_seq_get_size(self.context.as_ptr(), sequence);
            let mut state = vec![0; size];
            let written = sys::llama_state_seq_get_data(self.context.as_ptr(), state.as_mut_ptr(), size, sequence);
            state.truncate(written);
            state
        }
    }

    /// Makes a sequence hold what [`Self::state`] gave. Whether it does; otherwise nobody knows what it holds.
    pub(super) fn set_state(&mut self, sequence: usize, state: &[u8]) -> bool {
        let Some(sequence) = i32::try_from(sequence).ok().filter(|_| sequence < self.sequences) else { return false };
        // SAFETY: as above; the bytes are what llama.cpp wrote for a sequence of this context, which the caller has made sure
        // of, and it reads no more than so many.
        let read =
            unsafe { sys::llama_state_seq_set_data(self.context.as_ptr(), state.as_ptr(), state.len(), sequence) };
        read == state.len() && read > 0
    }

    /// One forward. 0 is success; see `llama_decode`.
    pub(super) fn decode(&mut self, batch: &mut Batch) -> i32 {
        let count = batch.tokens.len();
        let in_range = batch.sequences.iter().all(|&sequence| (sequence as usize) < self.sequences);
        if count == 0 || count > self.batch_tokens || !in_range {
            return -1;
        }
        batch.sequence_counts.clear();
        batch.sequence_counts.resize(count, 1);
        batch.sequence_pointers.clear();
        for sequence in &mut batch.sequences {
            batch.sequence_pointers.push(ptr::from_mut(sequence));
        }
        let raw = sys::llama_batch {
            n_tokens: i32::try_from(count).unwrap_or(0),
            token: batch.tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: batch.positions.as_mut_ptr(),
            n_seq_id: batch.sequence_counts.as_mut_ptr(),
            seq_id: batch.sequence_pointers.as_mut_ptr(),
            logits: batch.outputs.as_mut_ptr(),
        };
        // SAFETY: every array has `count` elements, each sequence pointer points to one id, and all of them live over
        // the call, which only reads them. The count and the ids are within what the context was made for.
        let code = unsafe { sys::llama_decode(self.context.as_ptr(), raw) };
        // SAFETY: the context is alive. Accelerators compute on after the call; what a forward takes is to be known.
        unsafe { sys::llama_synchronize(self.context.as_ptr()) };
        code
    }

    /// How many numbers a token's last state has; none where states are not kept.
    pub(super) fn state_width(&self) -> usize {
        self.state_width
    }

    /// The last state of the token at a place of the last batch, where states are kept.
    pub(super) fn state_of(&mut self, place: usize) -> Option<&[f32]> {
        let place = i32::try_from(place).ok().filter(|_| self.state_width > 0)?;
        // SAFETY: the context is alive; a place that was not in the batch gives null. Otherwise there are as many floats as a
        // state has, valid until the next decode, which needs the `&mut self` that the slice borrows.
        unsafe {
            let state = sys::llama_get_embeddings_ith(self.context.as_ptr(), place);
            (!state.is_null()).then(|| std::slice::from_raw_parts(state, self.state_width))
        }
    }

    /// The logits after the token at a place of the last batch, if they were asked for.
    pub(super) fn logits(&mut self, place: usize) -> Option<&[f32]> {
        let place = i32::try_from(place).ok()?;
        // SAFETY: the context is alive; a place without logits gives null. Otherwise there are as many floats as the
        // vocabulary has tokens, valid until the next decode, which needs the `&mut self` that the slice borrows.
        unsafe {
            let logits = sys::llama_get_logits_ith(self.context.as_ptr(), place);
            (!logits.is_null()).then(|| std::slice::from_raw_parts(logits, self.vocabulary))
        }
    }
}

/// When memory gets its large pages.
#[derive(Debug, Clone, Copy)]
pub(super) enum LargePages {
    /// As it is written.
    Asked,
    /// At once, by copying.
    Made,
}

/// Has the system back whole large pages of this process's memory by such. Where it cannot, or the memory has gone meanwhile,
/// nothing changes.
#[cfg(target_os = "linux")]
pub(super) fn back_with_large_pages(part: Range<usize>, when: LargePages) {
    let advice = match when {
        LargePages::Asked => libc::MADV_HUGEPAGE,
        LargePages::Made => libc::MADV_COLLAPSE,
    };
    // SAFETY: either advice changes how memory is backed, and neither what is in it nor who may use it (madvise(2)).
    unsafe { libc::madvise(part.start as *mut c_void, part.len(), advice) };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn back_with_large_pages(_part: Range<usize>, _when: LargePages) {}

/// The tokens of one forward. Its arrays always have the same length.
#[derive(Default)]
pub(super) struct Batch {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    outputs: Vec<i8>,
    sequence_counts: Vec<i32>,
    /// Rebuilt before each use, and never read after it.
    sequence_pointers: Vec<*mut i32>,
}

// SAFETY: the pointers point into the batch's own buffers and are rebuilt before each use.
unsafe impl Send for Batch {}

impl Batch {
    /// Empties it, and writes zeros over the tokens.
    pub(super) fn clear(&mut self) {
        self.tokens.zeroize();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    /// Sees to it that llama.cpp computes no token alone and draws from none alone: feeds a token of no consequence after it.
    /// Returns the sequences that have a token more than they were given. The batch has to be in the order of its sequences.
    pub(super) fn add_company(&mut self) -> Vec<usize> {
        let lonely = exact::find_lonely(&self.sequences, &mut self.outputs).into_iter();
        let filled = lonely.map(|place| {
            let sequence = self.sequences[place].cast_unsigned() as usize;
            let position = self.positions[place].cast_unsigned() as usize + 1;
            self.push(0, position, sequence, self.outputs[place] == 1);
            sequence
        });
        filled.collect()
    }

    /// Adds a token and returns its place.
    pub(super) fn push(&mut self, token: u32, position: usize, sequence: usize, output: bool) -> usize {
        let place = self.tokens.len();
        self.tokens.push(token.cast_signed());
        self.positions.push(i32::try_from(position).unwrap_or(i32::MAX));
        self.sequences.push(i32::try_from(sequence).unwrap_or(i32::MAX));
        self.outputs.push(i8::from(output));
        place
    }
}
