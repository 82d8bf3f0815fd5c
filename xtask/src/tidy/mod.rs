//! Tidy: the rules of the code base that no compiler checks.
//!
//! Rules look at lexed sources (no comments, no strings, test code known), so that they hold
//! without parsing Rust. Each has a test that shows it fire on a bad sample.

mod allow;
mod clocks;
mod docs;
mod imports;
mod owners;
mod size;
mod source;
mod unfinished;
mod unwraps;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use allow::AllowList;
use source::Source;

/// The list of files and functions that may be longer than the limits, each with its reason.
const ALLOW_LIST: &str = "xtask/tidy-allow.txt";

/// Folders of the repository that hold our Rust.
const FOLDERS: &[&str] = &[
    "runtime", "sdk", "plugins", "examples", "tests", "xtask", "fuzz",
];

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    rule: &'static str,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {} [{}]", self.message, self.rule)
    }
}

/// Checks every rule on every Rust file of the repository and prints what it finds.
pub fn run(context: &Context) -> Result<()> {
    let sources = read_sources(&context.root)?;
    let list_path = context.root.join(ALLOW_LIST);
    let list = fs::read_to_string(&list_path)
        .with_context(|| format!("reading {}", list_path.display()))?;
    let findings = check(&sources, &list);
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files, no findings", sources.len());
            Ok(())
        }
        count => bail!("tidy: {count} finding(s)"),
    }
}

fn check(sources: &[Source], allow_list: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut allow = AllowList::parse(ALLOW_LIST, allow_list, &mut findings);
    for source in sources {
        owners::check(source, &mut findings);
        imports::check(source, &mut findings);
        clocks::check(source, &mut findings);
        unfinished::check(source, &mut findings);
        docs::check(source, &mut findings);
        unwraps::check(source, &mut findings);
        size::check(source, &mut allow, &mut findings);
    }
    allow.report_unused(&mut findings);
    findings.sort();
    findings
}

fn read_sources(root: &Path) -> Result<Vec<Source>> {
    let mut paths = Vec::new();
    for folder in FOLDERS {
        let folder = root.join(folder);
        if folder.is_dir() {
            collect(&folder, &mut paths)?;
        }
    }
    paths.sort();
    let mut sources = Vec::new();
    for path in &paths {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let name = path
            .strip_prefix(root)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        sources.push(Source::new(name, text));
    }
    source::mark_test_files(&mut sources);
    Ok(sources)
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                collect(&path, paths)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// For the rules' tests: the messages of `check` on one file.
#[cfg(test)]
fn messages(check: impl Fn(&Source, &mut Vec<Finding>), path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    check(
        &Source::new(path.to_owned(), text.to_owned()),
        &mut findings,
    );
    findings.iter().map(Finding::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_come_in_the_order_of_files_and_lines() {
        let sources = [
            Source::new(
                "runtime/src/model/b.rs".to_owned(),
                "//! B.\nfn f() { x.unwrap(); }\n".to_owned(),
            ),
            Source::new(
                "runtime/src/model/a.rs".to_owned(),
                "fn f() { x.unwrap(); }\n".to_owned(),
            ),
        ];
        let places: Vec<_> = check(&sources, "")
            .iter()
            .map(|f| format!("{}:{}:{}", f.path, f.line, f.rule))
            .collect();
        assert_eq!(
            places,
            [
                "runtime/src/model/a.rs:1:module-docs",
                "runtime/src/model/a.rs:1:unwrap",
                "runtime/src/model/b.rs:2:unwrap"
            ]
        );
    }
}
