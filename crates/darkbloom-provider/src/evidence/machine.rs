//! An encrypted machine, for tests: the kernel's files appear in a folder that is made for a request, as they do in the kernel's
//! own, and whoever writes into `inblob` is answered in `outblob`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{EvidenceConfig, Platform};

/// What is done when a request's folder is made: by default nothing, so that there are no files.
#[derive(Clone)]
pub struct Kernel(Arc<dyn Fn(&Path) + Send + Sync>);

impl Default for Kernel {
    fn default() -> Self {
        Self(Arc::new(|_| ()))
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}

impl Kernel {
    /// Makes reports of this kind, of what was asked about.
    pub fn of(provider: &'static str, report: impl Fn([u8; 64]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let report = Arc::new(report);
        Self(Arc::new(move |request| {
            let (request, report) = (request.to_owned(), Arc::clone(&report));
            files(&request, provider);
            std::thread::spawn(move || answer(&request, "1", "1", |asked| report(asked)));
        }))
    }

    /// A request's folder was made.
    pub fn appears(&self, request: &Path) {
        (self.0)(request);
    }
}

/// The files of a request, before anything was asked.
pub fn files(request: &Path, provider: &str) {
    for name in ["inblob", "outblob", "generation"] {
        mknodat(CWD, request.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    std::fs::write(request.join("provider"), format!("{provider}\n")).unwrap();
}

/// Answers one question, with what was written before and after as these numbers say.
pub fn answer(request: &Path, before: &str, after: &str, report: impl FnOnce([u8; 64]) -> Vec<u8>) {
    let asked = std::fs::read(request.join("inblob")).unwrap().try_into().unwrap();
    std::fs::write(request.join("generation"), before).unwrap();
    std::fs::write(request.join("outblob"), report(asked)).unwrap();
    std::fs::write(request.join("generation"), after).unwrap();
}

/// What is found on a machine with this kernel, in this folder.
pub fn platform(folder: PathBuf, kernel: Kernel, change: impl FnOnce(&mut EvidenceConfig)) -> Platform {
    let mut config = EvidenceConfig { tsm: folder, ..EvidenceConfig::default() };
    change(&mut config);
    let mut platform = Platform::look(&config, false).unwrap();
    platform.tsm.as_mut().unwrap().kernel = kernel;
    platform
}
