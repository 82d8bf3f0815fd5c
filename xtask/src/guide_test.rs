//! The first plugin of docs/plugin-guide.md, made as a reader makes it: the files and the commands are the guide's own,
//! in a folder outside the repository, and what comes out must be what the guide says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::context::Context;
use crate::process::Cmd;

const GUIDE: &str = "docs/plugin-guide.md";
const SECTION: &str = "## Your first plugin";
/// What the guide writes for the path of the checkout.
const CHECKOUT: &str = "MILLSTREAM";

/// Follows the guide with the command `millstream`.
pub fn run(context: &Context, millstream: &Path) -> Result<()> {
    let guide = context.root.join(GUIDE);
    let text =
        fs::read_to_string(&guide).with_context(|| format!("reading {}", guide.display()))?;
    let section = section(&text)?;
    let folder = context.cache.join("guide-test");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    // Versions that are tested with the SDK, and on this machine already.
    let lock = "cp \"$SDK_LOCK\" Cargo.lock";
    let mut script = vec!["set -eu".to_owned()];
    let mut expected = Vec::new();
    for block in blocks(section) {
        match block {
            Block::File { name, text } => {
                script.push(format!("cat > {name} <<'END OF FILE'\n{text}END OF FILE"));
                if name == "Cargo.toml" {
                    script.push(lock.to_owned());
                }
            }
            Block::Commands(text) => script.push(text.to_owned()),
            Block::Output(text) => expected.extend(text.lines()),
        }
    }
    let script = script
        .join("\n")
        .replace(CHECKOUT, &context.root.to_string_lossy());
    let bin = millstream
        .parent()
        .context("`millstream` is in no folder")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [bin.to_owned()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    let mut shell = Cmd::new("bash");
    shell
        .dir(&folder)
        .args(["-c", &script])
        .env("PATH", std::env::join_paths(path)?)
        .env("SDK_LOCK", context.root.join("sdk/Cargo.lock"))
        .env_remove("CARGO_TARGET_DIR");
    let printed = shell
        .output()
        .with_context(|| format!("the commands of {GUIDE}, section `{SECTION}`"))?;
    let printed: Vec<_> = printed
        .lines()
        .filter(|line| line.starts_with('{'))
        .collect();
    ensure!(
        !expected.is_empty(),
        "{GUIDE} shows no output in `{SECTION}`"
    );
    let (printed, expected) = (without_times(&printed)?, without_times(&expected)?);
    if !is_expected(&printed, &expected) {
        bail!("{GUIDE} says that this comes out:\n{expected:#?}\nbut it is this:\n{printed:#?}");
    }
    Ok(())
}

fn section(guide: &str) -> Result<&str> {
    let start = guide
        .find(SECTION)
        .with_context(|| format!("{GUIDE} has no section `{SECTION}`"))?;
    let rest = &guide[start + SECTION.len()..];
    Ok(rest.split("\n## ").next().unwrap_or(rest))
}

/// A fenced block of the section.
#[derive(Debug, PartialEq)]
enum Block<'a> {
    File { name: &'a str, text: &'a str },
    Commands(&'a str),
    Output(&'a str),
}

/// Blocks without a language are commands, JSON is what they print, and others are files, whose names are the first thing
/// in the paragraph before them that is set as code and has a dot in it.
fn blocks(section: &str) -> Vec<Block<'_>> {
    let parts: Vec<_> = section.split("```").collect();
    let pairs = parts.chunks_exact(2);
    let found = pairs.filter_map(|pair| {
        let [before, block] = pair else { return None };
        let (language, text) = block.split_once('\n')?;
        Some(match language {
            "" => Block::Commands(text),
            "json" => Block::Output(text),
            _ => {
                let paragraph = before.trim().rsplit("\n\n").next()?;
                let mut code = paragraph.split('`').skip(1).step_by(2);
                let name = code.find(|word| word.contains('.'))?;
                Block::File { name, text }
            }
        })
    });
    found.collect()
}

/// Whether these records may be printed, in any order. The guide's topic is compacted while the pipeline runs: an earlier
/// record may be missing if a later one of its key is there.
fn is_expected(printed: &[Value], expected: &[Value]) -> bool {
    let mut left = printed.to_vec();
    let mut with_later = BTreeSet::new();
    for record in expected.iter().rev() {
        let key = record["key"].to_string();
        match left.iter().position(|it| it == record) {
            Some(at) => {
                left.remove(at);
                with_later.insert(key);
            }
            None if with_later.contains(&key) => {}
            None => return false,
        }
    }
    left.is_empty()
}

/// The records, without what differs from run to run.
fn without_times(lines: &[&str]) -> Result<Vec<Value>> {
    let parsed = lines.iter().map(|line| {
        let mut record: Value =
            serde_json::from_str(line).with_context(|| format!("`{line}` is not JSON"))?;
        let fields = record.as_object_mut().context("a record is no object")?;
        for field in ["timestamp", "offset"] {
            let removed = fields.remove(field);
            ensure!(removed.is_some(), "`{line}` has no `{field}`");
        }
        Ok(record)
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart() {
        let text = "\nMake it:\n\n```\nmkdir a\n```\n\nOf `no` use. `src/a.rs`, and `b.c`:\n\n```rust\nfn a() {}\n```\n\
                    It prints\n\n```json\n{\"a\":1}\n```\nand that is all.\n";
        let name = "src/a.rs";
        let expected = [
            Block::Commands("mkdir a\n"),
            Block::File {
                name,
                text: "fn a() {}\n",
            },
            Block::Output("{\"a\":1}\n"),
        ];
        assert_eq!(blocks(text), expected);
    }

    #[test]
    fn the_guide_has_what_the_test_follows() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = fs::read_to_string(root.join(GUIDE)).unwrap();
        let blocks = blocks(section(&text).unwrap());
        let files = blocks.iter().filter_map(|block| match block {
            Block::File { name, .. } => Some(*name),
            _ => None,
        });
        let files: Vec<_> = files.collect();
        assert_eq!(files, ["Cargo.toml", "src/lib.rs", "millstream.toml"]);
    }

    #[test]
    fn records_are_compared_whatever_their_order_and_time() {
        let record = |key: &str, time: u64| {
            format!(r#"{{"key":"{key}","value":"1","offset":{time},"timestamp":{time}}}"#)
        };
        let (a, b) = (
            [record("a", 1), record("b", 2)],
            [record("b", 3), record("a", 4)],
        );
        let compared =
            |lines: &[String; 2]| without_times(&lines.each_ref().map(String::as_str)).unwrap();
        assert!(is_expected(&compared(&a), &compared(&b)));
        let other = [record("a", 1), record("c", 2)];
        assert!(!is_expected(&compared(&a), &compared(&other)));
    }

    #[test]
    fn only_what_compaction_takes_may_be_missing() {
        let record = |key: &str, value: u64| serde_json::json!({ "key": key, "value": value });
        let expected = [record("a", 1), record("b", 1), record("a", 2)];
        let [first, of_b, second] = expected.clone();
        assert!(is_expected(&expected, &expected));
        assert!(is_expected(&[of_b.clone(), second.clone()], &expected));
        assert!(!is_expected(&[first.clone(), of_b.clone()], &expected));
        assert!(!is_expected(&[first, second.clone()], &expected));
        assert!(!is_expected(
            &[of_b.clone(), second.clone(), second],
            &expected
        ));
    }
}
