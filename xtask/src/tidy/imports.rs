//! No upward imports: which module of the `millstream` crate may use which.

use std::ops::Range;

use super::Finding;
use super::source::{Source, identifiers, is_word, matching_close};

/// The direction of the code base (ARCHITECTURE.md, "Code map"). `None` = everything.
const ALLOWED: &[(&str, Option<&[&str]>)] = &[
    ("model", Some(&[])),
    ("clock", Some(&[])),
    ("storage", Some(&["model", "clock"])),
    ("log", Some(&["storage", "clock", "model"])),
    ("group", Some(&["storage", "clock", "model"])),
    ("queue", Some(&["storage", "clock", "model"])),
    ("backup", Some(&["storage", "clock", "model"])),
    (
        "verify",
        Some(&[
            "backup", "log", "queue", "group", "storage", "clock", "model",
        ]),
    ),
    ("trace", Some(&[])),
    ("plugin", Some(&["model"])),
    ("manifest", Some(&["model"])),
    (
        "pipeline",
        Some(&[
            "log", "group", "queue", "plugin", "manifest", "storage", "model", "clock", "trace",
        ]),
    ),
    (
        "deploy",
        Some(&[
            "pipeline", "log", "group", "queue", "plugin", "manifest", "storage", "model", "clock",
        ]),
    ),
    ("server", None),
    ("cli", None),
    ("bench", None),
];

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    let Some((module, depth)) = source.runtime_module() else {
        return;
    };
    let mut report = |at: usize, message: String| {
        findings.push(Finding {
            path: source.path.clone(),
            line: source.line(at),
            rule: "imports",
            message,
        });
    };
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
        report(
            0,
            format!(
                "module `{module}` is not in the table of xtask/src/tidy/imports.rs; give it its place there"
            ),
        );
        return;
    };
    let Some(allowed) = allowed else { return };
    for (at, used) in crate_paths(&source.code, depth) {
        if used != module && !allowed.contains(&used) {
            let may = if allowed.is_empty() {
                "nothing".to_owned()
            } else {
                allowed.join(", ")
            };
            report(at, format!("`{module}` uses `{used}`; it may use {may}"));
        }
    }
}

/// The first segment behind `crate::`, or behind as many `super::` as lead to the crate's root,
/// of every path, with the path's place; each arm of `crate::{a, b::c}` counts.
fn crate_paths(code: &str, file_depth: usize) -> Vec<(usize, &str)> {
    let modules = inline_modules(code);
    let mut found = Vec::new();
    let mut supers = 0;
    for (at, word) in identifiers(code) {
        let follows_path = code[..at].trim_end().ends_with("::");
        let reaches_root = match word {
            "crate" => !follows_path,
            "super" => {
                supers = if follows_path { supers + 1 } else { 1 };
                let depth = file_depth + modules.iter().filter(|range| range.contains(&at)).count();
                supers == depth
            }
            _ => false,
        };
        if reaches_root {
            segments_behind(code, at + word.len(), &mut found);
        }
    }
    found
}

/// The segments that follow `::` at `at`: one name, or the first name of each arm of a group.
fn segments_behind<'a>(code: &'a str, at: usize, found: &mut Vec<(usize, &'a str)>) {
    let Some(rest) = code[at..].trim_start().strip_prefix("::") else {
        return;
    };
    let start = code.len() - rest.trim_start().len();
    if code[start..].starts_with('{') {
        let end = matching_close(code, start).saturating_sub(1).max(start + 1);
        let mut depth = 0_usize;
        let mut at_arm = true;
        for (offset, byte) in code[start + 1..end].bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                b',' if depth == 0 => at_arm = true,
                _ if at_arm && is_word(byte) => {
                    at_arm = false;
                    found.push(word_at(code, start + 1 + offset));
                }
                _ => {}
            }
        }
    } else if code[start..].bytes().next().is_some_and(is_word) {
        found.push(word_at(code, start));
    }
}

fn word_at(code: &str, at: usize) -> (usize, &str) {
    let length = code[at..].bytes().take_while(|byte| is_word(*byte)).count();
    (at, &code[at..at + length])
}

/// The bodies of `mod name { … }`: a `super` inside means one module less.
fn inline_modules(code: &str) -> Vec<Range<usize>> {
    let mut bodies = Vec::new();
    for (at, word) in identifiers(code) {
        if word != "mod" {
            continue;
        }
        let name = code[at + word.len()..].trim_start();
        let behind = name
            .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
            .trim_start();
        if behind.starts_with('{') {
            let open = code.len() - behind.len();
            bodies.push(open..matching_close(code, open));
        }
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    #[test]
    fn an_upward_import_is_found() {
        assert_eq!(
            messages(
                check,
                "runtime/src/storage/commit.rs",
                "//! C.\nuse crate::model::Record;\nuse crate::log::Log;\n"
            ),
            [
                "runtime/src/storage/commit.rs:3: `storage` uses `log`; it may use model, clock [imports]"
            ]
        );
        assert_eq!(
            messages(
                check,
                "runtime/src/model/mod.rs",
                "fn f() -> crate::clock::Clock {}"
            ),
            ["runtime/src/model/mod.rs:1: `model` uses `clock`; it may use nothing [imports]"]
        );
    }

    #[test]
    fn groups_and_supers_are_followed() {
        let found = |path: &str, text: &str| messages(check, path, text).len();
        assert_eq!(
            found(
                "runtime/src/log/mod.rs",
                "use crate::{model::{Record, queue}, pipeline::Task, group};"
            ),
            2
        );
        assert_eq!(found("runtime/src/clock.rs", "use super::pipeline;"), 1);
        assert_eq!(
            found("runtime/src/log/fetch.rs", "use super::pipeline;"),
            0,
            "log::pipeline"
        );
        assert_eq!(
            found("runtime/src/log/fetch.rs", "use super::super::pipeline;"),
            1
        );
        assert_eq!(
            found("runtime/src/log/mod.rs", "mod tests { use super::group; }"),
            0,
            "log::group"
        );
        assert_eq!(
            found(
                "runtime/src/log/mod.rs",
                "mod tests { use super::super::group; }"
            ),
            1
        );
    }

    #[test]
    fn allowed_imports_and_words_in_text_are_free() {
        let text = "use crate::{storage, clock};\n/// [`crate::pipeline`]\nuse crate::log::fetch;";
        assert!(messages(check, "runtime/src/log/mod.rs", text).is_empty());
        assert!(
            messages(
                check,
                "runtime/src/cli/run.rs",
                "use crate::pipeline::Supervisor;"
            )
            .is_empty()
        );
        assert!(
            messages(
                check,
                "runtime/src/lib.rs",
                "pub use crate::pipeline::Supervisor;"
            )
            .is_empty()
        );
    }

    #[test]
    fn a_module_needs_a_place() {
        let found = messages(check, "runtime/src/misc.rs", "//! M.");
        assert!(
            found[0].contains("module `misc` is not in the table"),
            "{found:?}"
        );
    }
}
