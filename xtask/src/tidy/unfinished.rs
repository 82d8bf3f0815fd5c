//! Nothing unfinished lands: no placeholder macros, no debug prints, no notes to oneself.

use super::Finding;
use super::source::Source;

const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];
/// Put together here, so that this file does not hold what it looks for.
const NOTES: &[&str] = &[
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
];

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    let mut report = |at: usize, what: &str| {
        findings.push(Finding {
            path: source.path.clone(),
            line: source.line(at),
            rule: "unfinished",
            message: format!("`{what}`: finish it or take it out"),
        });
    };
    for (at, word) in source.identifiers() {
        let behind = &source.code[at + word.len()..];
        if MACROS.contains(&word) && behind.starts_with('!') && !behind.starts_with("!=") {
            report(at, &format!("{word}!"));
        }
    }
    for note in NOTES {
        for (at, _) in source.text.match_indices(note) {
            let before = source.text[..at].chars().next_back();
            let behind = source.text[at + note.len()..].chars().next();
            if !before.is_some_and(char::is_alphanumeric)
                && !behind.is_some_and(char::is_alphanumeric)
            {
                report(at, note);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    #[test]
    fn unfinished_code_is_found() {
        for name in MACROS {
            let text = format!("fn f() {{ {name}!(1) }}");
            assert_eq!(
                messages(check, "runtime/src/log/mod.rs", &text).len(),
                1,
                "{text}"
            );
        }
        for note in NOTES {
            assert_eq!(
                messages(check, "sdk/rust/src/lib.rs", &format!("// {note}: later")).len(),
                1,
                "{note}"
            );
        }
    }

    #[test]
    fn words_that_only_look_so_are_free() {
        let text = "// todo! is refused\nfn todo() -> bool { let dbg = 1; dbg != 2 }\nconst S: &str = \"dbg!\";";
        assert!(messages(check, "runtime/src/log/mod.rs", text).is_empty());
        assert!(
            messages(
                check,
                "runtime/src/log/mod.rs",
                &format!("// {}S, A{}", NOTES[1], NOTES[2])
            )
            .is_empty()
        );
    }
}
