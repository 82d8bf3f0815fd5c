//! What is told of two versions of a plugin.

use super::*;
use guest::Guest;

fn between(earlier: &Guest, later: &Guest) -> Vec<(String, Effect)> {
    let differences = load(later).differences_to(&load(earlier)).into_iter();
    differences.map(|it| (it.to_string(), it.effect)).collect()
}

fn reads_clock() -> Guest {
    Guest::passthrough().import(
        "wasi:clocks/monotonic-clock@0.2.6",
        "now",
        "(result u64)",
        "(result i64)",
    )
}

#[test]
fn the_same_contract_has_no_differences() {
    assert_eq!(between(&reads_clock(), &reads_clock()), []);
}

#[test]
fn a_new_import_says_what_grants_it() {
    let found = between(&Guest::passthrough(), &reads_clock());
    let [(text, Effect::Breaks)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert!(
        text.contains("now imports `wasi:clocks/monotonic-clock@0.2.6` (now)"),
        "{text}"
    );
    assert!(text.contains("allow = { clocks = true }"), "{text}");
    let back = between(&reads_clock(), &Guest::passthrough());
    assert!(
        matches!(back.as_slice(), [(text, Effect::Harmless)] if text.contains("no longer imports")),
        "{back:?}"
    );
}

#[test]
fn exports_that_come_and_go_are_told() {
    let opens = || Guest::passthrough().open("unreachable");
    let found = between(&Guest::passthrough(), &opens());
    assert!(
        matches!(found.as_slice(), [(text, Effect::Harmless)] if text.contains("now exports `millstream:plugin/lifecycle@0.1.0`")),
        "{found:?}"
    );
    let found = between(&opens(), &Guest::passthrough());
    assert!(
        matches!(found.as_slice(), [(_, Effect::Loses)]),
        "{found:?}"
    );
}
