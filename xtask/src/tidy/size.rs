//! Files of at most 800 lines, functions of at most 70 (tests apart); what is longer needs a
//! reason in the allow-list.

use super::Finding;
use super::allow::AllowList;
use super::source::{Source, body_or_end, matching_close};

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 70;

pub fn check(source: &Source, allow: &mut AllowList, findings: &mut Vec<Finding>) {
    let mut report = |line: usize, message: String| {
        findings.push(Finding {
            path: source.path.clone(),
            line,
            rule: "size",
            message,
        });
    };
    let lines = source.non_test_line_count();
    if lines > FILE_LINES && !allow.takes_file(&source.path) {
        report(
            0,
            format!("{lines} lines outside tests (at most {FILE_LINES})"),
        );
    }
    for (at, name, lines) in functions(source) {
        if lines > FUNCTION_LINES
            && !source.is_test(at)
            && !allow.takes_function(&source.path, name)
        {
            report(
                source.line(at),
                format!("`{name}` has {lines} lines (at most {FUNCTION_LINES})"),
            );
        }
    }
}

/// Place, name and lines of every function with a body.
fn functions(source: &Source) -> Vec<(usize, &str, usize)> {
    let code = &source.code;
    let mut found = Vec::new();
    let mut words = source.identifiers();
    while let Some((at, word)) = words.next() {
        if word != "fn" {
            continue;
        }
        // A function pointer's type (`fn(u32)`) has no name right behind.
        let named = code[at + 2..]
            .trim_start()
            .starts_with(|c: char| c.is_alphabetic() || c == '_');
        let Some((name_at, name)) = words.next().filter(|_| named) else {
            continue;
        };
        let Some(open) = body_or_end(code, name_at).filter(|open| code.as_bytes()[*open] == b'{')
        else {
            continue;
        };
        let close = matching_close(code, open);
        found.push((at, name, source.line(close - 1) - source.line(at) + 1));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: String, list: &str) -> Vec<String> {
        let mut findings = Vec::new();
        let mut allow = AllowList::parse("allow.txt", list, &mut findings);
        check(
            &Source::new(path.to_owned(), text),
            &mut allow,
            &mut findings,
        );
        allow.report_unused(&mut findings);
        findings.iter().map(Finding::to_string).collect()
    }

    fn function(name: &str, lines: usize) -> String {
        format!(
            "fn {name}(f: fn(u32) -> [u8; 2])\nwhere\n    F: Fn(u32) -> u32,\n{{\n{}}}\n",
            "    x;\n".repeat(lines - 5)
        )
    }

    #[test]
    fn a_long_function_is_found() {
        assert!(findings("a.rs", function("fits", 70), "").is_empty());
        assert_eq!(
            findings("a.rs", function("long", 71), ""),
            ["a.rs:1: `long` has 71 lines (at most 70) [size]"]
        );
        assert!(
            findings(
                "a.rs",
                function("long", 71),
                "function a.rs long: a table in code\n"
            )
            .is_empty()
        );
        assert!(findings("tests/a.rs", function("long", 71), "").is_empty());
    }

    #[test]
    fn a_long_file_is_found() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(500));
        assert!(findings("a.rs", "// x\n".repeat(800) + &tests, "").is_empty());
        assert_eq!(
            findings("a.rs", "// x\n".repeat(801), ""),
            ["a.rs: 801 lines outside tests (at most 800) [size]"]
        );
        assert!(findings("a.rs", "// x\n".repeat(801), "file a.rs: generated\n").is_empty());
    }

    #[test]
    fn declarations_without_a_body_are_no_functions() {
        let text = format!("trait T {{\n fn a(&self);\n{}}}\n", "\n".repeat(100));
        assert!(findings("a.rs", text, "").is_empty());
    }
}
