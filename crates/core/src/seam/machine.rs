//! What the machine allows this process: memory and open files.

use std::path::{Path, PathBuf};

/// What the machine allows this process; `None` where it sets no limit, or does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Machine {
    /// The machine's memory.
    pub memory_bytes: Option<u64>,
    /// The smallest memory limit of the process's cgroup and those around it.
    pub cgroup_bytes: Option<u64>,
    /// How many files the process may have open, connections among them.
    pub open_files: Option<u64>,
}

impl Machine {
    /// Asks the operating system.
    #[must_use]
    pub fn read() -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let text = |path: &str| read(Path::new(path)).unwrap_or_default();
        Self {
            memory_bytes: total_memory(&text("/proc/meminfo")),
            cgroup_bytes: cgroup_limit(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"), read),
            open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// `MemTotal` of `/proc/meminfo`.
fn total_memory(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit on the way from the process's own cgroup to the root that is mounted, in either version of cgroups
/// (the kernel's `cgroup-v2.rst` and `cgroup-v1/memory.rst`; a container may see only a part of the hierarchy).
fn cgroup_limit(cgroups: &str, mountinfo: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let hierarchies = cgroups.lines().filter_map(Hierarchy::parse);
    hierarchies.filter_map(|hierarchy| hierarchy.limit(mountinfo, &read)).min()
}

/// A line of `/proc/self/cgroup` about memory: `0::PATH` in version 2, `N:memory:PATH` in version 1.
struct Hierarchy<'a> {
    path: &'a Path,
    is_unified: bool,
}

impl<'a> Hierarchy<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_unified = controllers.is_empty();
        let is_memory = controllers.split(',').any(|controller| controller == "memory");
        (is_unified || is_memory).then(|| Self { path: Path::new(path), is_unified })
    }

    fn limit(&self, mountinfo: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
        let (root, mounted) = mountinfo.lines().find_map(|line| self.mount(line))?;
        // Without a namespace of its own, a container sees the host's path, of which its own part is mounted.
        let own = self.path.strip_prefix(root).unwrap_or(Path::new(""));
        let file = if self.is_unified { "memory.max" } else { "memory.limit_in_bytes" };
        let limits = own.ancestors().filter_map(|path| parse_limit(&read(&mounted.join(path).join(file))?));
        limits.min()
    }

    /// The root within the hierarchy and the mount point, if a line of `mountinfo` mounts it (proc_pid_mountinfo(5)).
    fn mount<'b>(&self, line: &'b str) -> Option<(&'b Path, PathBuf)> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mounted) = (fields.next()?, fields.next()?);
        let mut fields = after.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let is_it = match self.is_unified {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        };
        is_it.then(|| (Path::new(root), PathBuf::from(mounted)))
    }
}

/// Version 1 has no word for "no limit": it says the largest number of whole pages.
const NO_LIMIT_FROM: u64 = 1 << 60;

fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT_FROM)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNT: &str = "24 23 0:21 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        33 24 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        35 24 0:31 /docker/7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    fn limit(cgroups: &str, mountinfo: &str, files: &[(&str, &str)]) -> Option<u64> {
        cgroup_limit(cgroups, mountinfo, |path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_tightest_cgroup_around_the_process_counts() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "268435456\n"),
            ("/sys/fs/cgroup/c/memory.max", "1000\n"),
        ];
        assert_eq!(limit("0::/a/b\n", V2_MOUNT, &files), Some(256 << 20));
        assert_eq!(limit("0::/a\n", V2_MOUNT, &files), Some(256 << 20));
        assert_eq!(limit("0::/c\n", V2_MOUNT, &files), Some(1000));
        assert_eq!(limit("0::/\n", V2_MOUNT, &files), None, "the root has no limit");
        assert_eq!(limit("0::/elsewhere\n", V2_MOUNT, &[]), None);
    }

    #[test]
    fn version_1_in_a_container_and_without_a_limit() {
        let at = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let cgroups = "5:cpu:/docker/7\n4:memory:/docker/7\n0::/\n";
        assert_eq!(limit(cgroups, V1_MOUNT, &[(at, "536870912\n")]), Some(512 << 20));
        assert_eq!(limit(cgroups, V1_MOUNT, &[(at, "9223372036854771712\n")]), None);
        let inner = "/sys/fs/cgroup/memory/x/memory.limit_in_bytes";
        let files = [(at, "536870912"), (inner, "1048576")];
        assert_eq!(limit("4:memory:/docker/7/x\n", V1_MOUNT, &files), Some(1 << 20));
        assert_eq!(limit("4:memory:/not/mounted\n", V1_MOUNT, &files), Some(512 << 20));
    }

    #[test]
    fn both_versions_at_once_and_nonsense() {
        let mounts = format!("{V1_MOUNT}{}", V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "));
        let files = [
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2000"),
            ("/sys/fs/cgroup/unified/memory.max", "1000"),
        ];
        assert_eq!(limit("4:cpu,memory:/docker/7\n0::/\n", &mounts, &files), Some(1000));
        for nonsense in ["", "memory", "4:memory", "::::", "0:x:y"] {
            assert_eq!(limit(nonsense, &mounts, &[]), None);
            assert_eq!(limit("4:memory:/docker/7\n", nonsense, &files), None);
        }
    }

    #[test]
    fn memory_is_counted_in_kibibytes() {
        let meminfo = "MemTotal:       24689764 kB\nMemFree:        23589764 kB\n";
        assert_eq!(total_memory(meminfo), Some(24_689_764 * 1024));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_tells() {
        let machine = Machine::read();
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{machine:?}");
        assert!(machine.open_files.is_none_or(|files| files > 3), "{machine:?}");
    }
}
