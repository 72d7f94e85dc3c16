//! Large pages for what every step reads.
//!
//! A step reads all weights, one after the other, and with pages of 4 KiB the processor looks up where each of them lies: a row
//! of a 0.6 B model decodes in 52 ms so, and in 34 ms with pages of 2 MiB (Q8_0, one thread, Zen 4). Linux gives large pages to
//! memory that asks for them where it is set up so (`/sys/kernel/mm/transparent_hugepage/enabled`: `madvise`). llama.cpp does
//! not ask, and what it takes comes from the allocator, so it is found by comparing the process's memory before and after.

use std::ops::Range;

use super::raw::{self, LargePages};

/// A large page of x86-64, and of AArch64 with small ones of 4 KiB.
const LARGE_PAGE: usize = 2 << 20;

/// The process's memory without a name, which is what the allocator gives and threads' stacks, from low to high.
#[derive(Debug, Clone, Default)]
pub(super) struct Regions(Vec<Range<usize>>);

impl Regions {
    /// As it is now; nothing where the system does not tell.
    pub(super) fn now() -> Self {
        let maps =
            if cfg!(target_os = "linux") { std::fs::read_to_string("/proc/self/maps") } else { Ok(String::new()) };
        Self(maps.unwrap_or_default().lines().filter_map(anonymous).collect())
    }

    /// Those large pages of it that were not there before.
    fn new_since(&self, before: &Self) -> Vec<Range<usize>> {
        let mut new = Vec::new();
        for region in &self.0 {
            let mut from = region.start;
            let old = before.0.iter().filter(|old| old.start < region.end && old.end > region.start);
            for old in old {
                new.push(from..old.start);
                from = old.end;
            }
            new.push(from..region.end);
        }
        let whole = |part: Range<usize>| part.start.next_multiple_of(LARGE_PAGE)..part.end / LARGE_PAGE * LARGE_PAGE;
        new.into_iter().filter(|part| part.start < part.end).map(whole).filter(|part| part.start < part.end).collect()
    }

    /// Asks for large pages where memory came since, before anything is written there.
    pub(super) fn ask_for_large_pages_since(&self) {
        Self::now().new_since(self).into_iter().for_each(|part| raw::back_with_large_pages(part, LargePages::Asked));
    }

    /// Makes large pages of what was written since, and asks for them where nothing was. Takes some tenths of a second a gigabyte
    /// where they were not large before.
    pub(super) fn make_large_pages_since(&self) {
        self.ask_for_large_pages_since();
        Self::now().new_since(self).into_iter().for_each(|part| raw::back_with_large_pages(part, LargePages::Made));
    }
}

/// The range of a line of `/proc/self/maps` (proc_pid_maps(5)) that can be written, is nobody else's and has no name.
fn anonymous(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    if rights != "rw-p" || fields.nth(3).is_some() {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn only_memory_of_its_own_without_a_name_counts() {
        assert_eq!(
            anonymous("7f0000000000-7f0000200000 rw-p 00000000 00:00 0 "),
            Some(0x7f00_0000_0000..0x7f00_0020_0000)
        );
        for other in [
            "7f0000000000-7f0000200000 r--p 00000000 00:00 0 ",
            "7f0000000000-7f0000200000 rw-s 00000000 00:00 0 ",
            "7f0000000000-7f0000200000 rw-p 00000000 fe:00 123 /some/file",
            "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]",
            "",
            "nonsense",
        ] {
            assert_eq!(anonymous(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_new_is_cut_to_whole_large_pages() {
        let before = Regions(vec![4 * MIB..10 * MIB, 100 * MIB..101 * MIB]);
        let now = Regions(vec![MIB..15 * MIB, 50 * MIB..51 * MIB, 61 * MIB..67 * MIB, 100 * MIB..101 * MIB]);
        assert_eq!(now.new_since(&before), [2 * MIB..4 * MIB, 10 * MIB..14 * MIB, 62 * MIB..66 * MIB]);
        assert_eq!(now.new_since(&now), []);
    }
}
