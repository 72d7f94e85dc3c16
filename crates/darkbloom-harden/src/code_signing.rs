//! What macOS says about how a process's code is held to its signature (XNU, `bsd/sys/codesign.h`).

/// `CS_VALID`: what runs is what was signed.
const VALID: u32 = 0x0000_0001;
/// `CS_GET_TASK_ALLOW`: others may look into it.
const GET_TASK_ALLOW: u32 = 0x0000_0004;
/// `CS_RUNTIME`: the hardened runtime, without which anything may be loaded into it.
const RUNTIME: u32 = 0x0001_0000;
/// `CS_DEBUGGED`: it is or was debugged, and may run what was not signed.
const DEBUGGED: u32 = 0x1000_0000;

/// Whether a process with these flags is closed to debuggers and to libraries of others.
pub fn hardened(flags: u32) -> Result<(), String> {
    let has = |flag: u32| flags & flag != 0;
    let why = if !has(VALID) {
        "its code is not signed, or was changed"
    } else if has(DEBUGGED) {
        "it was debugged"
    } else if has(GET_TASK_ALLOW) {
        "it is signed to be debugged (get-task-allow)"
    } else if !has(RUNTIME) {
        "it is signed without the hardened runtime"
    } else {
        return Ok(());
    };
    Err(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_release_that_nobody_looks_into_is_hardened() {
        assert_eq!(hardened(VALID | RUNTIME), Ok(()));
        // Valid, hard, killed when it is not, with the library validation of a release.
        assert_eq!(hardened(0x0001_2301), Ok(()));
        for (flags, why) in [
            (0, "not signed"),
            (RUNTIME, "not signed"),
            (VALID, "without the hardened runtime"),
            // What the linker signs for itself: CS_ADHOC and CS_LINKER_SIGNED.
            (VALID | 0x0002_0002, "without the hardened runtime"),
            (VALID | RUNTIME | GET_TASK_ALLOW, "get-task-allow"),
            (VALID | RUNTIME | DEBUGGED, "was debugged"),
        ] {
            assert!(hardened(flags).unwrap_err().contains(why), "{flags:x}");
        }
    }
}
