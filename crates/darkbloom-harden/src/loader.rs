//! What the system's loader was told before this process had a say.
//!
//! A library that is loaded into a process runs before the process does and sees all that it sees. Whoever can set variables
//! where a provider is started has his library refused by a process that does not go on; where libraries are searched for is
//! reported and refused to nobody, since drivers are found so, and one of his in such a place is loaded as well. A library that changes this
//! process, and the owner, who can load what he likes without any variable, are not: what was loaded stands in the statement,
//! which is the process's own word.

use darkbloom_types::armed;

/// Variables that name libraries to load into any program (`ld.so(8)`, `dyld(1)`).
const PRELOADING: [&str; 3] = ["LD_PRELOAD", "LD_AUDIT", "DYLD_INSERT_LIBRARIES"];
/// Variables that say where a program's own libraries come from, or those of its accelerator. Drivers are often found so.
const SEARCHING: [&str; 11] = [
    "CUDA_INJECTION64_PATH",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "VK_LAYER_PATH",
    "VK_ADD_LAYER_PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FRAMEWORK_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "DYLD_FALLBACK_FRAMEWORK_PATH",
    "DYLD_ROOT_PATH",
];

/// Libraries were to be loaded into this process that are not its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} had a library loaded into this process, which would see its keys and every prompt", .0.join(" and "))]
pub struct Preloaded(pub Vec<&'static str>);

/// Whether nobody asked the loader for other libraries. To be asked before [`crate::close`], from which on the system does not
/// show what this process was started with to itself either.
///
/// # Errors
/// [`Preloaded`] names the variables.
pub fn preloaded() -> Result<(), Preloaded> {
    let named = set(&PRELOADING);
    if armed!("process_preloaded") && !named.is_empty() { Err(Preloaded(named)) } else { Ok(()) }
}

/// Why libraries may not be the system's, if so.
pub fn own_libraries() -> Result<(), String> {
    let named = [set(&PRELOADING), set(&SEARCHING)].concat();
    if named.is_empty() { Ok(()) } else { Err(format!("{} is set", named.join(", "))) }
}

/// Which of these are set to something. A library may have taken its name out of the variables, so what the process was
/// started with counts too, where the system tells.
fn set(names: &[&'static str]) -> Vec<&'static str> {
    let started_with = std::fs::read("/proc/self/environ").unwrap_or_default();
    names
        .iter()
        .copied()
        .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()) || has(&started_with, name))
        .collect()
}

/// Whether this block of variables has one of this name that is not empty.
fn has(block: &[u8], name: &str) -> bool {
    let value = |entry: &[u8]| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::is_empty);
    block.split(|byte| *byte == 0).any(|entry| value(entry) == Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_counts_under_its_whole_name_and_with_a_value() {
        let block = b"HOME=/\0LD_PRELOAD=/tmp/a.so\0LD_AUDIT=\0XLD_LIBRARY_PATH=/x\0";
        let found: Vec<_> = PRELOADING.iter().chain(&SEARCHING).filter(|name| has(block, name)).copied().collect();
        assert_eq!(found, ["LD_PRELOAD"]);
    }

    #[test]
    fn the_variables_are_named() {
        let said = Preloaded(vec!["LD_PRELOAD", "LD_AUDIT"]).to_string();
        assert!(said.starts_with("LD_PRELOAD and LD_AUDIT had a library loaded"), "{said}");
    }
}
