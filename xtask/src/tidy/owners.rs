//! `rocksdb` only under `storage/`, `wasmtime` only under `plugin/`: each has one owner, so that
//! it can be exchanged or upgraded in one place.

use super::Finding;
use super::source::Source;

/// A crate family, and the one module that may name it.
const OWNERS: &[(&[&str], &str)] = &[
    (&["rocksdb", "librocksdb_sys"], "storage"),
    (
        &[
            "wasmtime",
            "wasmtime_wasi",
            "wasmtime_wasi_http",
            "wasmtime_environ",
        ],
        "plugin",
    ),
    (
        &[
            "opentelemetry",
            "opentelemetry_http",
            "opentelemetry_otlp",
            "opentelemetry_sdk",
        ],
        "trace",
    ),
];

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    if !source.path.starts_with("runtime/") {
        return;
    }
    let module = source.runtime_module().map(|(module, _)| module);
    for (at, word) in source.identifiers() {
        let owner = OWNERS
            .iter()
            .find(|(crates, _)| crates.contains(&word))
            .map(|(_, owner)| *owner);
        if let Some(owner) = owner.filter(|owner| Some(*owner) != module) {
            findings.push(Finding {
                path: source.path.clone(),
                line: source.line(at),
                rule: "owner",
                message: format!("`{word}` may be named in runtime/src/{owner}/ only"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    #[test]
    fn a_foreign_name_is_found() {
        let text = "use rocksdb::DB;\nfn f() { wasmtime::Engine::default(); }\n";
        assert_eq!(
            messages(check, "runtime/src/log/mod.rs", text),
            [
                "runtime/src/log/mod.rs:1: `rocksdb` may be named in runtime/src/storage/ only [owner]",
                "runtime/src/log/mod.rs:2: `wasmtime` may be named in runtime/src/plugin/ only [owner]",
            ]
        );
    }

    #[test]
    fn owners_comments_and_strings_are_free() {
        assert!(messages(check, "runtime/src/storage/db.rs", "use rocksdb::DB;").is_empty());
        assert!(messages(check, "runtime/src/plugin/mod.rs", "use wasmtime::Engine;").is_empty());
        let text = "// rocksdb\nconst PATH: &str = \"rocksdb\"; fn open_rocksdb_files() {}";
        assert!(messages(check, "runtime/src/log/mod.rs", text).is_empty());
    }
}
