//! The allow-list: what may be longer than the limits, and why.
//!
//! One entry a line: `file PATH: REASON` or `function PATH NAME: REASON`; `#` starts a comment.
//! An entry that allows nothing is a finding itself, so the list never outlives its reasons.

use super::Finding;

/// The list, which notes what was used of it.
pub struct AllowList {
    path: String,
    entries: Vec<Entry>,
}

struct Entry {
    line: usize,
    what: String,
    is_used: bool,
}

impl AllowList {
    /// Reads `text`, the content of `path`; lines that cannot be read become findings.
    pub fn parse(path: &str, text: &str, findings: &mut Vec<Finding>) -> Self {
        let mut list = Self {
            path: path.to_owned(),
            entries: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_entry(line) {
                Some(what) => list.entries.push(Entry {
                    line: index + 1,
                    what,
                    is_used: false,
                }),
                None => findings.push(list.finding(
                    index + 1,
                    "expected `file PATH: REASON` or `function PATH NAME: REASON`".to_owned(),
                )),
            }
        }
        list
    }

    /// May the file at `path` be long?
    pub fn takes_file(&mut self, path: &str) -> bool {
        self.takes(&format!("file {path}"))
    }

    /// May the function `name` of the file at `path` be long?
    pub fn takes_function(&mut self, path: &str, name: &str) -> bool {
        self.takes(&format!("function {path} {name}"))
    }

    fn takes(&mut self, what: &str) -> bool {
        let mut taken = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.what == what) {
            entry.is_used = true;
            taken = true;
        }
        taken
    }

    /// Reports the entries that allowed nothing.
    pub fn report_unused(&self, findings: &mut Vec<Finding>) {
        for entry in self.entries.iter().filter(|entry| !entry.is_used) {
            findings.push(self.finding(
                entry.line,
                format!("`{}` needs no entry (any more)", entry.what),
            ));
        }
    }

    fn finding(&self, line: usize, message: String) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            rule: "allow-list",
            message,
        }
    }
}

/// What an entry allows, in one spelling; `None` without a reason or with the wrong words.
fn parse_entry(line: &str) -> Option<String> {
    let (what, reason) = line.split_once(": ")?;
    let words: Vec<_> = what.split_whitespace().collect();
    let is_known = matches!(words.as_slice(), ["file", _] | ["function", _, _]);
    (is_known && !reason.trim().is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_need_a_reason_and_a_use() {
        let mut findings = Vec::new();
        let text = "# why\n\nfile a.rs: generated\nfile b.rs:\nfunction c.rs: no name\nfunction d.rs f: a table\n";
        let mut list = AllowList::parse("allow.txt", text, &mut findings);
        let lines: Vec<_> = findings.drain(..).map(|finding| finding.line).collect();
        assert_eq!(lines, [4, 5]);
        assert!(list.takes_file("a.rs"));
        assert!(!list.takes_file("b.rs"));
        assert!(!list.takes_function("d.rs", "g"));
        list.report_unused(&mut findings);
        assert_eq!(
            findings[0].to_string(),
            "allow.txt:6: `function d.rs f` needs no entry (any more) [allow-list]"
        );
        assert_eq!(findings.len(), 1);
    }
}
