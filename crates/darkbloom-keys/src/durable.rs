//! Small files that are there whole or not at all, also after a loss of power.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

/// Writes a file that only its owner may read. False, and nothing changed, when there is one already.
pub fn create(path: &Path, contents: &[u8]) -> io::Result<bool> {
    let made = folders(path)?;
    let draft = draft(path, contents)?;
    // Linked, not renamed: a lost race never overwrites the winner's.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    let created = match linked {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    // The file's own sync keeps what is in it; its name is kept by the folder's, and a new folder's by the one above.
    for folder in std::iter::once(folder(path)).chain(made.iter().map(PathBuf::as_path)) {
        File::open(folder)?.sync_all()?;
    }
    Ok(created)
}

/// Writes a file that only its owner may read over the one that is there.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let draft = draft(path, contents)?;
    fs::rename(&draft, path).inspect_err(|_| drop(fs::remove_file(&draft)))?;
    File::open(folder(path))?.sync_all()
}

/// Writes over the file that is there, which keeps its owner and its permissions.
pub fn replace_contents(path: &Path, contents: &[u8]) -> io::Result<()> {
    let before = fs::metadata(path)?;
    let draft = draft(path, contents)?;
    let like_before = || {
        let made = fs::metadata(&draft)?;
        if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
            chown(&draft, Some(before.uid()), Some(before.gid()))?;
        }
        fs::set_permissions(&draft, before.permissions())?;
        File::open(&draft)?.sync_all()?;
        fs::rename(&draft, path)
    };
    like_before().inspect_err(|_| drop(fs::remove_file(&draft)))?;
    File::open(folder(path))?.sync_all()
}

/// Gives a file another name, over the file that has it.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    File::open(folder(to))?.sync_all()
}

/// Removes a file; one that is not there is no failure.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => File::open(folder(path))?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A bare file name has the empty path as its parent, which no system opens.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the folders above a file. Returns those that hold a new one.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = folder(path);
    let made: Vec<_> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    let above = made.iter().filter_map(|folder| folder.parent()).map(|above| match above.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => above.to_owned(),
    });
    let above = above.collect();
    fs::create_dir_all(folder)?;
    Ok(above)
}

/// A draft beside the file, on the disk. Another name for each: one that is left behind by a crash then stands in nobody's
/// way, as it would if the number of the process were its name, which is always 1 in a container.
fn draft(path: &Path, contents: &[u8]) -> io::Result<PathBuf> {
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(|_| io::Error::other("the system gave no randomness"))?;
    let draft = path.with_extension(format!("draft-{}", hex::encode(name)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&draft)))?;
    Ok(draft)
}
