//! The machine and the build that figures belong to.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Versions of what the figures depend on most, from the lock file's pins.
const DEPENDENCIES: [(&str, &str); 2] = [("wasmtime", "48.0.8"), ("rocksdb", "0.25 (11.8.1)")];

/// Where and with what a benchmark ran.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Environment {
    /// When it began, in UTC.
    pub(super) started_at: String,
    /// Model of the processor, or its architecture where the system does not tell.
    pub(super) cpu: String,
    /// Processors that this process may use.
    pub(super) cores: usize,
    pub(super) memory_bytes: u64,
    pub(super) kernel: String,
    pub(super) millstream: &'static str,
    pub(super) build: &'static str,
    pub(super) dependencies: Vec<(&'static str, &'static str)>,
}

impl Environment {
    /// Looks at this machine.
    pub(super) fn read() -> Self {
        let cpu = field_of("/proc/cpuinfo", "model name");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            started_at: jiff::Timestamp::now()
                .strftime("%Y-%m-%d %H:%M UTC")
                .to_string(),
            cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field_of("/proc/meminfo", "MemTotal")
                .and_then(|text| kibibytes(&text))
                .unwrap_or_default(),
            kernel: format!("{} {}", std::env::consts::OS, kernel.trim()),
            millstream: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            dependencies: DEPENDENCIES.to_vec(),
        }
    }

    /// One line for people.
    pub(super) fn summary(&self) -> String {
        let Self {
            started_at,
            cpu,
            cores,
            kernel,
            millstream,
            build,
            ..
        } = self;
        let memory_gib = self.memory_bytes as f64 / f64::from(1 << 30);
        let dependencies: Vec<_> = self
            .dependencies
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        format!(
            "{started_at}; {cores} cores of {cpu}, {memory_gib:.0} GiB, {kernel}; millstream {millstream} ({build}), {}",
            dependencies.join(", ")
        )
    }
}

/// The value of `name: value` in a file of the proc file system.
pub(super) fn field_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find(|line| line.split(':').next().map(str::trim) == Some(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes of a size such as `123 kB`, which in the proc file system means KiB.
pub(super) fn kibibytes(text: &str) -> Option<u64> {
    let number = text.strip_suffix("kB")?.trim();
    number.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// The type of the file system that a path lies on.
pub(super) fn file_system_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let around = mounts.filter(|(mounted, _)| path.starts_with(mounted));
    // A later mount over the same folder hides the earlier one.
    around
        .max_by_key(|(mounted, _)| mounted.len())
        .map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_known() {
        let environment = Environment::read();
        assert!(environment.cores >= 1);
        assert!(environment.summary().contains(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn sizes_of_the_proc_file_system_are_kibibytes() {
        assert_eq!(kibibytes("3 kB"), Some(3072));
        assert_eq!(kibibytes("3"), None);
    }

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock");
        for (name, version) in DEPENDENCIES {
            let version = version.split(' ').next().unwrap();
            assert!(
                lock.contains(&format!("name = \"{name}\"\nversion = \"{version}")),
                "{name}"
            );
        }
        assert!(lock.contains("name = \"librocksdb-sys\"\nversion = \"0.19.0+11.8.1\""));
    }
}
