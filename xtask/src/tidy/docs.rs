//! Every file starts with what it is for (`//!`); of a module's `tests.rs` the name says it.

use super::Finding;
use super::source::Source;

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    if source.path.ends_with("/tests.rs") {
        return;
    }
    let mut lines = source.text.lines().map(str::trim).skip_while(|line| {
        // A licence, or attributes of the whole file, may come first.
        line.is_empty()
            || line.starts_with("#![")
            || (line.starts_with("//") && !line.starts_with("//!"))
    });
    if !lines.next().is_some_and(|line| line.starts_with("//!")) {
        findings.push(Finding {
            path: source.path.clone(),
            line: 1,
            rule: "module-docs",
            message: "no module documentation (`//!`) at the top".to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    #[test]
    fn a_file_without_docs_is_found() {
        for text in [
            "",
            "use std::fs;\n",
            "/// Not the module's.\nfn f() {}\n",
            "use a;\n//! Too late.\n",
        ] {
            assert_eq!(
                messages(check, "runtime/src/log/mod.rs", text).len(),
                1,
                "{text}"
            );
        }
        for text in [
            "//! The log.\n",
            "#![no_main]\n//! A fuzz target.\n",
            "// Licence.\n\n//! The log.\n",
        ] {
            assert!(
                messages(check, "runtime/src/log/mod.rs", text).is_empty(),
                "{text}"
            );
        }
    }
}
