//! The measures of macOS.

#![allow(unsafe_code, reason = "two calls of the system that take pointers")]

use std::ptr::null_mut;

use crate::{Measure, Report, code_signing};

/// `CS_OPS_STATUS` of XNU's `bsd/sys/codesign.h`.
const STATUS: libc::c_uint = 0;

unsafe extern "C" {
    /// XNU's `csops(2)`, in libSystem.
    fn csops(pid: libc::pid_t, operation: libc::c_uint, to: *mut libc::c_void, bytes: usize) -> libc::c_int;
}

pub fn close(report: &mut Report) {
    report.note(Measure::DenyAttach, deny_attach());
    report.note(Measure::HardenedRuntime, flags().and_then(code_signing::hardened));
}

/// From here on no debugger attaches; one that is attached already ends this process.
fn deny_attach() -> Result<(), String> {
    // SAFETY: this request has neither an address nor a number.
    let denied = unsafe { libc::ptrace(libc::PT_DENY_ATTACH, 0, null_mut(), 0) };
    if denied == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().to_string()) }
}

/// How the kernel treats this process's code.
fn flags() -> Result<u32, String> {
    let mut flags = 0_u32;
    // SAFETY: it writes this one number, of the size that is said, about the calling process.
    let asked = unsafe { csops(0, STATUS, (&raw mut flags).cast(), size_of::<u32>()) };
    if asked == 0 { Ok(flags) } else { Err(std::io::Error::last_os_error().to_string()) }
}
