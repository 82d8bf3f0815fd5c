//! What lies in a data directory, by name.

/// Locked by the process that has the directory open.
pub const LOCK: &str = "LOCK";
/// Says in which format the directory is.
pub const FORMAT: &str = "FORMAT";
/// RocksDB's files.
pub const STORE: &str = "store";
/// Compiled components, which are made again when they are missing.
pub const PLUGIN_CACHE: &str = "plugin-cache";
/// Components that were uploaded, by digest.
pub const PLUGINS: &str = "plugins";
/// Checkpoints of the store, to which a deploy can be rolled back.
pub const CHECKPOINTS: &str = "checkpoints";

/// What the plugins of pipelines have logged.
pub const LOGS: &str = "logs";

/// `FORMAT` while it is written.
pub(super) const NEW_FORMAT: &str = "FORMAT.new";

/// Where the server that runs on the directory listens, and a token for it.
pub const SERVER: &str = "server.json";

/// As [`SERVER`], while it is written.
pub const NEW_SERVER: &str = "server.json.new";

/// Whether a backup leaves an entry out: it says something about the running process only, or about what it has done and
/// nothing needs, is made again when it is missing, or is a copy itself.
pub fn is_transient(name: &str) -> bool {
    let names = [
        LOCK,
        NEW_FORMAT,
        PLUGIN_CACHE,
        CHECKPOINTS,
        LOGS,
        SERVER,
        NEW_SERVER,
        // Of the file system.
        "lost+found",
    ];
    names.contains(&name)
}
