//! What the kernel says of this process: memory, processor time, open files.

use std::fs;

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Process {
    pub(crate) resident_bytes: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) open_fds: u64,
}

impl Process {
    /// Of this process; none where `/proc` does not say.
    pub(crate) fn now() -> Option<Self> {
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let resident_bytes = pages * rustix::param::page_size() as u64;
        let cpu_seconds = ticks(&stat)? as f64 / rustix::param::clock_ticks_per_second() as f64;
        Some(Self { resident_bytes, cpu_seconds, open_fds })
    }
}

/// Processor time in user and system mode. The name of the program, in brackets, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_read_right() {
        let stat =
            "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 1 0 120 34 0 0 20 0 5 0 100 1000 200 18446744073709551615";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("42 (a"), None);
        let now = Process::now().expect("Linux");
        assert!(now.resident_bytes > 1 << 20 && now.open_fds > 2, "{now:?}");
    }
}
