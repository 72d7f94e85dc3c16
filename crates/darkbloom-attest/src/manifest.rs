//! The weights' manifest: one root for all files of a model.
//!
//! A leaf is SHA-256("darkbloom/v1/leaf" ‖ length of path as 4 bytes ‖ path ‖ SHA-256 of the file), leaves are sorted by
//! path, and a node is SHA-256("darkbloom/v1/node" ‖ left ‖ right); a node without a right neighbour moves up as it is. A
//! model in one file has the path [`SINGLE_FILE`], so that renaming it changes nothing.

use darkbloom_types::Digest;

/// The path of a model that is one file.
pub const SINGLE_FILE: &str = "weights.gguf";

/// The root over files and their SHA-256 digests. `None` for no files, or for a path that appears twice.
#[must_use]
pub fn weights_root(files: &[(&str, Digest)]) -> Option<Digest> {
    let mut files: Vec<_> = files.to_vec();
    files.sort_unstable();
    if files.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    let mut level = Vec::with_capacity(files.len());
    for (path, digest) in files {
        let length = u32::try_from(path.len()).ok()?;
        level.push(Digest::of(&[b"darkbloom/v1/leaf", &length.to_be_bytes(), path.as_bytes(), digest.as_bytes()]));
    }
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => Digest::of(&[b"darkbloom/v1/node", left.as_bytes(), right.as_bytes()]),
                rest => rest[0],
            })
            .collect();
    }
    level.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_depends_on_every_path_and_digest_and_not_on_order() {
        let (a, b, c) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
        let root = weights_root(&[("a", a), ("b", b), ("c", c)]);
        assert_eq!(root, weights_root(&[("c", c), ("a", a), ("b", b)]));
        assert_ne!(root, weights_root(&[("a", b), ("b", a), ("c", c)]));
        assert_ne!(root, weights_root(&[("a", a), ("b", b), ("d", c)]));
        assert_ne!(root, weights_root(&[("a", a), ("b", b)]));
        assert_eq!(weights_root(&[("a", a), ("a", b)]), None);
        assert_eq!(weights_root(&[]), None);
    }
}
