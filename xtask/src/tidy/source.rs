//! A Rust file as the rules see it: comments and strings blanked, test code known.

use std::ops::Range;

/// One file.
pub struct Source {
    /// Below the repository's root, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// The same length and lines, with comments and the insides of literals replaced by spaces.
    pub code: String,
    /// Byte ranges of `code` that are compiled for tests only.
    tests: Vec<Range<usize>>,
    /// Byte at which each line starts.
    lines: Vec<usize>,
}

impl Source {
    /// Lexes `text`.
    pub fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        // A test binary, and by the same custom a file of its own for a module's tests.
        let is_test = path
            .split('/')
            .any(|part| part == "tests" || part == "benches")
            || path.ends_with("/tests.rs");
        let whole = 0..code.len();
        let tests = if is_test {
            vec![whole]
        } else {
            test_items(&code)
        };
        Self {
            path,
            text,
            code,
            tests,
            lines,
        }
    }

    /// The line of byte `at`, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// Is byte `at` compiled for tests only?
    pub fn is_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// Lines that are not compiled for tests only.
    pub fn non_test_line_count(&self) -> usize {
        let starts = self.lines.iter().filter(|start| **start < self.text.len());
        starts.filter(|start| !self.is_test(**start)).count()
    }

    /// Every identifier of `code`, with its place.
    pub fn identifiers(&self) -> impl Iterator<Item = (usize, &str)> {
        identifiers(&self.code)
    }

    /// The top-level module of the `millstream` crate that the file belongs to, and how many
    /// modules deep the file is; `None` for other crates and for the crate's roots.
    pub fn runtime_module(&self) -> Option<(&str, usize)> {
        let inside = self.path.strip_prefix("runtime/src/")?;
        let stem = inside.strip_suffix(".rs")?;
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        if stem == "lib" || stem == "main" {
            return None;
        }
        let module = stem.split('/').next()?;
        Some((module, stem.split('/').count()))
    }
}

/// Marks files that a `#[cfg(test)] mod name;` elsewhere brings in.
pub fn mark_test_files(sources: &mut [Source]) {
    let mut named = Vec::new();
    for source in sources.iter() {
        let folder = match source.path.rsplit_once('/') {
            Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
            _ => source.path.trim_end_matches(".rs").to_owned(),
        };
        for range in &source.tests {
            let item = &source.code[range.clone()];
            if let Some(name) = item
                .trim_end()
                .strip_suffix(';')
                .and_then(|rest| rest.rsplit_once("mod "))
            {
                named.push(format!("{folder}/{}.rs", name.1.trim()));
                named.push(format!("{folder}/{}/mod.rs", name.1.trim()));
            }
        }
    }
    for source in sources {
        if named.contains(&source.path) {
            let whole = 0..source.code.len();
            source.tests = vec![whole];
        }
    }
}

/// Every identifier of blanked code, with its place.
pub fn identifiers(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let bytes = code.as_bytes();
        while at < bytes.len() {
            let start = at;
            while at < bytes.len() && is_word(bytes[at]) {
                at += 1;
            }
            if at == start {
                at += 1;
            } else if !bytes[start].is_ascii_digit() {
                return Some((start, &code[start..at]));
            }
        }
        None
    })
}

/// A byte of an identifier; bytes beyond ASCII are letters here.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The place behind the bracket that closes the one at `open`, or the end of the code.
pub fn matching_close(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The first `{` or `;` at or behind `from` that is in no brackets.
pub fn body_or_end(code: &str, from: usize) -> Option<usize> {
    let mut at = from;
    while at < code.len() {
        match code.as_bytes()[at] {
            b'(' | b'[' => at = matching_close(code, at),
            b'{' | b';' => return Some(at),
            _ => at += 1,
        }
    }
    None
}

/// The items under `#[cfg(test)]`, `#[cfg(all(test, …))]` and `#[test]`, attribute included.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices("#[") {
        if found.last().is_some_and(|range| range.contains(&start)) {
            continue;
        }
        let attribute_end = matching_close(code, start + 1);
        let attribute: String = code[start..attribute_end].split_whitespace().collect();
        let is_test = matches!(attribute.as_str(), "#[test]" | "#[cfg(test)]")
            || attribute.starts_with("#[cfg(all(test,")
            || attribute.starts_with("#[tokio::test");
        if is_test {
            found.push(start..item_end(code, attribute_end));
        }
    }
    found
}

/// Where the item that starts at or behind `from` ends; further attributes belong to it.
fn item_end(code: &str, from: usize) -> usize {
    match body_or_end(code, from) {
        Some(at) if code.as_bytes()[at] == b'{' => matching_close(code, at),
        Some(at) => at + 1,
        None => code.len(),
    }
}

/// Replaces comments and the insides of string and character literals by spaces.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' | b'c' if !continues_word(bytes, at) => {
                match prefixed_literal_end(bytes, at) {
                    Some(end) => end,
                    None => {
                        at += 1;
                        continue;
                    }
                }
            }
            b'\'' => match char_end(text, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Only whole literals and comments were replaced, by ASCII, so this is UTF-8 as before.
    String::from_utf8_lossy(&out).into_owned()
}

fn continues_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_word(bytes[at - 1])
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| from + length)
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `c"…"`, `b'…'`; `None` for a word that only starts so.
fn prefixed_literal_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while at < bytes.len() && at < from + 2 && matches!(bytes[at], b'r' | b'b' | b'c') {
        at += 1;
    }
    let raw = bytes[at - 1] == b'r';
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    match bytes.get(at + hashes)? {
        b'"' if raw => {
            let mut close = vec![b'"'];
            close.resize(1 + hashes, b'#');
            let body = at + hashes + 1;
            let length = bytes[body..]
                .windows(close.len())
                .position(|window| window == close.as_slice());
            Some(length.map_or(bytes.len(), |length| body + length + close.len()))
        }
        b'"' if hashes == 0 => Some(string_end(bytes, at)),
        b'\'' if hashes == 0 && !raw => {
            let escape = usize::from(bytes.get(at + 1) == Some(&b'\\'));
            let close = bytes[at + 2 + escape..]
                .iter()
                .position(|byte| *byte == b'\'')?;
            Some(at + 2 + escape + close + 1)
        }
        _ => None,
    }
}

/// The end of the character literal at `quote`; `None` when it is a lifetime.
fn char_end(text: &str, quote: usize) -> Option<usize> {
    let mut rest = text[quote + 1..].char_indices();
    match rest.next()? {
        (_, '\\') => {
            // What is escaped may itself be a quote.
            rest.next()?;
            rest.find(|(_, c)| *c == '\'')
                .map(|(at, _)| quote + 1 + at + 1)
        }
        (_, '\'') => None,
        _ => rest
            .next()
            .filter(|(_, c)| *c == '\'')
            .map(|(at, _)| quote + 1 + at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        blank(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        assert_eq!(code("a // b\nc /* d /* e */ f */ g"), "a c g");
        assert_eq!(
            code(r#"f("x \" y", 'z', '\'', b'q', b"r", '"') + g"#),
            "f( , , , , , ) + g"
        );
        assert_eq!(code("f(r#\"a \" b\"#, br\"c\") // \"\ng"), "f( , ) g");
        assert_eq!(
            code("fn f<'a>(x: &'a str) -> 'a"),
            "fn f<'a>(x: &'a str) -> 'a"
        );
        assert_eq!(code("let barb = rc;"), "let barb = rc;");
        assert_eq!(
            code("match c { 'ü' => 1, r#fn => 2 }"),
            "match c { => 1, r#fn => 2 }"
        );
    }

    #[test]
    fn blanking_keeps_places() {
        let text = "let s = \"ü\nx\"; // ü\nlet t;";
        let blanked = blank(text);
        assert_eq!(blanked.len(), text.len());
        assert_eq!(blanked.find("let t"), text.find("let t"));
    }

    #[test]
    fn test_code_is_known() {
        let text = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    fn b() { if c {} }\n}\nfn d() {}\n#[test]\nfn e() {}\n#[cfg(any(test, f))]\nfn g() {}\n";
        let source = Source::new("runtime/src/model/x.rs".to_owned(), text.to_owned());
        let is_test = |what: &str| source.is_test(text.find(what).unwrap());
        assert!(
            !is_test("fn a")
                && is_test("fn b")
                && !is_test("fn d")
                && is_test("fn e")
                && !is_test("fn g")
        );
        assert_eq!(source.non_test_line_count(), 4);
        assert_eq!(source.line(text.find("fn d").unwrap()), 7);
    }

    #[test]
    fn test_files_are_known_by_place_or_declaration() {
        let new = |path: &str, text: &str| Source::new(path.to_owned(), text.to_owned());
        assert!(new("tests/e2e/main.rs", "fn a() {}").is_test(0));
        assert!(new("runtime/src/log/tests.rs", "fn a() {}").is_test(0));
        let mut sources = [
            new("runtime/src/log/mod.rs", "#[cfg(test)]\nmod model_test;\n"),
            new("runtime/src/log/model_test.rs", "fn a() {}"),
        ];
        assert!(!sources[1].is_test(0));
        mark_test_files(&mut sources);
        assert!(sources[1].is_test(0));
    }

    #[test]
    fn files_know_their_module() {
        let module = |path: &str| {
            let source = Source::new(path.to_owned(), String::new());
            source
                .runtime_module()
                .map(|(name, depth)| (name.to_owned(), depth))
        };
        assert_eq!(
            module("runtime/src/storage/mod.rs"),
            Some(("storage".to_owned(), 1))
        );
        assert_eq!(
            module("runtime/src/storage/keys/batch.rs"),
            Some(("storage".to_owned(), 3))
        );
        assert_eq!(
            module("runtime/src/clock.rs"),
            Some(("clock".to_owned(), 1))
        );
        assert_eq!(module("runtime/src/lib.rs"), None);
        assert_eq!(module("sdk/rust/src/state.rs"), None);
    }
}
