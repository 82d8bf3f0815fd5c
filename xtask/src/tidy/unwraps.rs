//! No `.unwrap()` in the runtime crate outside tests: an error is handled, returned, or (where it
//! cannot happen) explained with `expect`.

use super::Finding;
use super::source::Source;

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    if !source.path.starts_with("runtime/") {
        return;
    }
    for (at, _) in source.code.match_indices("unwrap()") {
        let is_method = source.code[..at].trim_end().ends_with('.');
        if is_method && !source.is_test(at) {
            findings.push(Finding {
                path: source.path.clone(),
                line: source.line(at),
                rule: "unwrap",
                message: "`.unwrap()` outside tests".to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    #[test]
    fn an_unwrap_is_found() {
        let text = "fn f() {\n    x.unwrap();\n    y\n        .unwrap();\n}\n";
        assert_eq!(
            messages(check, "runtime/src/cli/run.rs", text),
            [
                "runtime/src/cli/run.rs:2: `.unwrap()` outside tests [unwrap]",
                "runtime/src/cli/run.rs:4: `.unwrap()` outside tests [unwrap]",
            ]
        );
    }

    #[test]
    fn tests_and_other_crates_are_free() {
        let text = "#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }\nfn g() { x.unwrap_or(1); }";
        assert!(messages(check, "runtime/src/cli/run.rs", text).is_empty());
        assert!(messages(check, "xtask/src/main.rs", "fn f() { x.unwrap(); }").is_empty());
    }
}
