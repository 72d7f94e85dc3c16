//! What runs here, as this process sees itself: its executable, with the kernels that llama.cpp brings, and the libraries that
//! were loaded into it. It is a provider's own word, and proves nothing where nothing measured the machine.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use darkbloom_types::Digest;
use darkbloom_wire::Program;
use sha2::{Digest as _, Sha256};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Looks at this process; nothing where the system does not show it to itself.
pub fn program() -> Option<Program> {
    let looked = executable().and_then(|executable| {
        let files = libraries(&executable)?;
        let mut digests = files.iter().map(|path| digest(path)).collect::<io::Result<Vec<_>>>()?;
        // Which they are counts, and not where they lie.
        digests.sort_unstable();
        digests.dedup();
        Ok(Program { executable: digest(&executable)?, libraries: all(&digests), system: system() })
    });
    looked.inspect_err(|error| tracing::info!(%error, "what runs here stands in no statement")).ok()
}

fn executable() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// A digest over digests.
fn all(digests: &[Digest]) -> Digest {
    let parts: Vec<&[u8]> = digests.iter().map(|digest| &digest.0[..]).collect();
    Digest::of(&parts)
}

fn digest(path: &Path) -> io::Result<Digest> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(named)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece).map_err(named)? {
            0 => return Ok(Digest(hash.finalize().into())),
            length => hash.update(&piece[..length]),
        }
    }
}

/// The files that code runs from in this process, without the executable's own.
#[cfg(target_os = "linux")]
fn libraries(executable: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    // address perms offset dev inode path
    let code = maps.lines().filter_map(|line| {
        let (permissions, path) = (line.split(' ').nth(1)?, line.splitn(6, ' ').nth(5)?.trim_start());
        (permissions.contains('x') && path.starts_with('/')).then(|| PathBuf::from(path))
    });
    Ok(code.filter(|path| path != executable).collect())
}

/// The system keeps its libraries in a cache, which is measured with it.
#[cfg(not(target_os = "linux"))]
fn libraries(_: &Path) -> io::Result<BTreeSet<PathBuf>> {
    Ok(BTreeSet::new())
}

/// The operating system's name and release.
fn system() -> String {
    let name = rustix::system::uname();
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn this_process_is_its_file_and_the_libraries_that_it_loaded() {
        let own = program().unwrap();
        let executable = std::env::current_exe().unwrap();
        assert_eq!(own.executable.0, <[u8; 32]>::from(Sha256::digest(std::fs::read(&executable).unwrap())));
        let files = libraries(&executable).unwrap();
        assert!(files.iter().any(|path| path.to_string_lossy().contains("libc")), "{files:?}");
        assert!(!files.contains(&executable));
        assert_ne!(own.libraries, all(&[]));
        assert!(own.system.starts_with("Linux "), "{}", own.system);
        assert_eq!(program().unwrap(), own, "the same each time");
    }

    #[test]
    #[ignore = "the process that the next test looks at"]
    fn the_child() {
        println!("{:?}", libraries(&std::env::current_exe().unwrap()).unwrap());
    }

    #[test]
    fn a_library_that_was_preloaded_stands_among_what_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("another.c"), folder.path().join("another.so"));
        std::fs::write(&source, "int another(void) { return 7; }\n").unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        assert!(built.unwrap().success(), "cc builds the library");
        let loaded = |preload: Option<&Path>| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "evidence::program::tests::the_child", "--ignored", "--nocapture"]);
            let output = child.envs(preload.map(|path| ("LD_PRELOAD", path))).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(loaded(Some(&library)).contains("another.so"));
        let alone = loaded(None);
        assert!(alone.contains("libc") && !alone.contains("another.so"), "{alone}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        assert!(digest(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("/nowhere/at/all"));
    }
}
