//! Why a write failed, and what to do about it.

use std::path::Path;

use super::health::DiskSpace;

/// The failed write after which the store takes no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteFailure {
    /// What failed: RocksDB's message, which names the file and the system's reason.
    pub reason: String,
    /// What to do about it.
    pub advice: String,
}

/// What a message of the system is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    DiskFull,
    TooManyOpenFiles,
    FileTooLarge,
    Disk,
    Other,
}

impl Cause {
    /// RocksDB hands the system's reason on as text only.
    fn of(reason: &str) -> Self {
        let causes = [
            ("No space left on device", Self::DiskFull),
            ("Disk quota exceeded", Self::DiskFull),
            ("Too many open files", Self::TooManyOpenFiles),
            ("File too large", Self::FileTooLarge),
            ("Read-only file system", Self::Disk),
            ("Input/output error", Self::Disk),
        ];
        let found = causes.iter().find(|(text, _)| reason.contains(text));
        found.map_or(Self::Other, |(_, cause)| *cause)
    }
}

impl WriteFailure {
    /// A failure in the data directory at `path`.
    pub(super) fn new(reason: &str, path: &Path) -> Self {
        let place = path.display();
        let room = match DiskSpace::of(path) {
            Ok(space) => format!(
                "the file system of {place} has {} of {} bytes free",
                space.free_bytes, space.total_bytes
            ),
            Err(_) => format!("it cannot be told how much room the file system of {place} has"),
        };
        let advice = match Cause::of(reason) {
            Cause::DiskFull => format!("{room}: make room there, and start again"),
            Cause::TooManyOpenFiles => format!(
                "raise the limit of open files, which is {} (`ulimit -n`, `LimitNOFILE=` of a systemd unit), and start again",
                super::open_files::limit_text()
            ),
            Cause::FileTooLarge => format!(
                "a limit on the size of files is too low (`ulimit -f`, or the file system's own; {room}): raise it, and start again"
            ),
            Cause::Disk => format!(
                "look for failures of the disk of {place} (`dmesg`, `smartctl`), and run `millstream verify` before starting again"
            ),
            Cause::Other => format!("solve the cause, and start again ({room})"),
        };
        Self {
            reason: reason.to_owned(),
            advice,
        }
    }
}

/// Whether a message of the system or of RocksDB says that a disk, or a quota, is full.
pub(crate) fn is_disk_full(reason: &str) -> bool {
    Cause::of(reason) == Cause::DiskFull
}

/// What to add to the message of an operation that failed for want of something.
pub(super) fn hint(reason: &str) -> &'static str {
    match Cause::of(reason) {
        Cause::DiskFull => "; the disk is full: make room, and try again",
        Cause::TooManyOpenFiles => {
            "; raise the limit of open files (`ulimit -n`, `LimitNOFILE=` of a systemd unit)"
        }
        Cause::FileTooLarge => "; raise the limit on the size of files (`ulimit -f`)",
        Cause::Disk => "; look for failures of the disk (`dmesg`, `smartctl`)",
        Cause::Other => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_about_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let advice = |reason: &str| WriteFailure::new(reason, folder.path()).advice;
        let of_rocksdb = |reason: &str| {
            advice(&format!(
                "IO error: {reason}: While appending to file: /d/000008.log: {reason}"
            ))
        };
        let full = of_rocksdb("No space left on device");
        assert!(full.contains("bytes free: make room"), "{full}");
        assert!(full.contains(folder.path().to_str().unwrap()), "{full}");
        let files = of_rocksdb("Too many open files");
        assert!(files.contains("LimitNOFILE"), "{files}");
        assert!(of_rocksdb("Input/output error").contains("millstream verify"));
        assert!(of_rocksdb("File too large").contains("ulimit -f"));
        assert!(advice("something else").starts_with("solve the cause"));
    }
}
