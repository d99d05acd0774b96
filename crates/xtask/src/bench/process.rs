//! What Linux tells about a running process, and about the disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

/// `/proc` counts time in hundredths of a second on every architecture that matters here (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used so far, or between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Usage {
    /// Of all its threads, in user and kernel.
    pub(super) cpu_seconds: f64,
    /// What the disk of the current directory has written, for whomever: `/proc/PID/io` counts whole folios, which may be
    /// megabytes, for each write to one. `None` where the file system is not on a disk of its own.
    pub(super) disk_written_bytes: Option<u64>,
}

impl Usage {
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        Ok(Self {
            cpu_seconds: stat(pid)?.cpu_ticks as f64 / TICKS_PER_SECOND as f64,
            disk_written_bytes: disk_written_bytes()?,
        })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            disk_written_bytes: self
                .disk_written_bytes
                .zip(before.disk_written_bytes)
                .map(|(now, then)| now - then),
        }
    }
}

fn disk_written_bytes() -> anyhow::Result<Option<u64>> {
    let device = fs::metadata(".").context("reading the current directory")?.dev();
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    let Ok(stat) = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")) else {
        return Ok(None);
    };
    // In sectors of 512 bytes, whatever the disk's are (Documentation/block/stat.rst of Linux).
    let sectors = stat.split_whitespace().nth(6).and_then(|sectors| sectors.parse::<u64>().ok());
    Ok(sectors.map(|sectors| sectors * 512))
}

/// How long ago the process was started, to a hundredth of a second.
pub(super) fn age(pid: u32) -> anyhow::Result<Duration> {
    let uptime = fs::read_to_string("/proc/uptime").context("reading /proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().unwrap_or_default().parse().context("reading /proc/uptime")?;
    let started = stat(pid)?.start_ticks as f64 / TICKS_PER_SECOND as f64;
    Ok(Duration::try_from_secs_f64(uptime - started).unwrap_or_default())
}

/// The memory that the process has resident, mapped files among it.
pub(super) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    kib_of("VmRSS", &status).map(|kib| kib * 1024).with_context(|| format!("{path} has no VmRSS"))
}

/// The value of `name: 1234 kB` in `/proc/PID/status` or `/proc/meminfo`.
pub(super) fn kib_of(name: &str, text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
}

fn stat(pid: u32) -> anyhow::Result<Stat> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}: has the server died?"))?;
    parse_stat(&text).with_context(|| format!("{path} reads {text:?}"))
}

/// The fields are counted from 1 in proc(5): 14 utime, 15 stime, 22 starttime. The second, the program's name in
/// parentheses, may hold blanks and parentheses itself.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, from_third) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = from_third.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_shifts_no_field() {
        for name in ["java", "a) b", "(sd-pam)"] {
            let text = format!(
                "4000 ({name}) S 1 3900 3900 0 -1 4194304 90 0 3 0 250 31 7 9 20 0 77 0 123456 4 5 6 7\n"
            );
            assert_eq!(parse_stat(&text), Some(Stat { cpu_ticks: 281, start_ticks: 123_456 }), "{name}");
        }
        assert_eq!(parse_stat("4000 (java) S 1 3900"), None);
    }

    #[test]
    fn a_line_is_found_by_its_whole_name() {
        let text = "Name:\tjava\nVmRSSX:\t1 kB\nVmRSS:\t  320512 kB\nRssAnon:\t 300000 kB\n";
        assert_eq!(kib_of("VmRSS", text), Some(320_512));
        assert_eq!(kib_of("Vm", text), None);
        assert_eq!(kib_of("Name", text), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).unwrap() > 100_000);
        let before = Usage::of(pid).unwrap();
        let since = Usage::of(pid).unwrap().since(before);
        assert!(since.cpu_seconds >= 0.0);
        assert_eq!(since.disk_written_bytes.is_some(), before.disk_written_bytes.is_some());
        assert!(age(pid).unwrap() < Duration::from_secs(24 * 60 * 60));
    }
}
