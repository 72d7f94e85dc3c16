//! Files that people name: never more of them is read than is stated, whatever their length says, and what is written with a
//! secret in it is new and its owner's alone.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The contents of a file of at most so many bytes, or why there are none.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut contents = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(most + 1).read_to_end(&mut contents).map_err(|error| error.to_string())?;
    if contents.len() as u64 > most {
        return Err(format!("it has more than {most} bytes"));
    }
    Ok(contents)
}

/// The same as text.
pub fn read_text(path: &Path, most: u64) -> Result<String, String> {
    String::from_utf8(read(path, most)?).map_err(|_| "it is not text in UTF-8".to_owned())
}

/// Writes a file that was not there, and that its owner alone may read.
pub fn write_new_private(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_is_stated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).as_deref(), Ok(&b"12345"[..]));
        assert_eq!(read(&path, 4), Err("it has more than 4 bytes".to_owned()));
        // Its length is said to be nothing.
        assert!(read(Path::new("/dev/zero"), 1_000).unwrap_err().contains("more than 1000 bytes"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path, 5).unwrap_err().contains("UTF-8"));
        assert!(read(&folder.path().join("none"), 5).is_err());
    }

    #[test]
    fn a_secret_is_written_to_a_new_file_of_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new_private(&path, b"secret").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_new_private(&path, b"other").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
    }
}
