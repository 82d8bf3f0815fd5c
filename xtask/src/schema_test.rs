//! The HTTP API against its OpenAPI document: schemathesis asks a running server what the document says that one can
//! ask, and much that it says one cannot. No answer may be a server error, undocumented, or other than documented, and
//! none may come without a token.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::context::Context;
use crate::process::Cmd;
use crate::server::{Server, on};
use crate::setup::schemathesis;

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth";
/// How long requests are made up, in seconds: for longer if not every operation had its turn, as on a slow machine.
const LENGTHS_SECONDS: [u32; 3] = [45, 180, 600];
/// Requests to an operation at a time, before it is the next one's turn.
const EXAMPLES: &str = "10";
/// An answer takes no longer, in seconds: `tests/schema/hooks.py` sees to it that nobody waits for records.
const ANSWER_SECONDS: &str = "20";
/// A response without end.
const STREAM: &str = "/stream$";

/// Runs it against the command `millstream`, on a data directory of its own.
pub fn run(context: &Context, millstream: &Cmd) -> Result<()> {
    let mut counts = Counts::default();
    for seconds in LENGTHS_SECONDS {
        counts = Counts::of(&ask(context, millstream, seconds)?)?;
        if counts.tested >= counts.selected {
            break;
        }
    }
    counts.check_all_were_tested()
}

/// Asks a new server for so long. Returns what schemathesis says of it.
fn ask(context: &Context, millstream: &Cmd, seconds: u32) -> Result<String> {
    let data_dir = context.target_dir().join("schema-test");
    if data_dir.exists() {
        fs::remove_dir_all(&data_dir)
            .with_context(|| format!("removing {}", data_dir.display()))?;
    }
    let verb = |args: &[&str]| on(millstream, &data_dir, args);
    // What `tests/schema/hooks.py` names.
    verb(&["topic", "create", "orders"]).run()?;
    verb(&["queue", "create", "work"]).run()?;
    // Without any token a server lets everyone on its machine in.
    verb(&["token", "create", "test", "--role", "admin"]).output()?;
    let server = Server::start(millstream, &data_dir, &[])?;
    // The one of the commands on this machine, since no request can revoke it.
    let token = local_token(&data_dir)?;
    let folder = context.root.join("tests/schema");
    let mut test = Cmd::new(schemathesis::program(context)?);
    test.dir(&data_dir)
        .arg("run")
        .arg(format!("{}/openapi.json", server.url()))
        .arg("--header")
        .arg(format!("Authorization: Bearer {}", token))
        .args(["--checks", CHECKS, "--exclude-path-regex", STREAM])
        .args(["--max-examples", EXAMPLES])
        .args(["--max-time", &seconds.to_string()])
        .args(["--request-timeout", ANSWER_SECONDS, "--warnings", "off"])
        .arg("--continue-on-failure")
        // A test that fails does so again.
        .arg("--generation-deterministic")
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks");
    let (text, status) = test.shown()?;
    if !status.success() {
        bail!("the HTTP API is not what its OpenAPI document says, see above ({status})");
    }
    Ok(text)
}

fn local_token(data_dir: &Path) -> Result<String> {
    let path = data_dir.join("server.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let local: Value = serde_json::from_str(&text)?;
    let token = local["token"].as_str();
    Ok(token
        .with_context(|| format!("no token in {}", path.display()))?
        .to_owned())
}

/// Operations of the API.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    selected: u32,
    tested: u32,
}

impl Counts {
    /// What schemathesis says of them.
    fn of(text: &str) -> Result<Self> {
        let number_after = |word: &str| -> Option<u32> {
            let mut lines = text.lines().map(str::trim);
            let rest = lines.find_map(|line| line.strip_prefix(word))?.trim();
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        match (number_after("Selected:"), number_after("Tested:")) {
            (Some(selected), Some(tested)) => Ok(Self { selected, tested }),
            _ => bail!("schemathesis did not say how many operations it selected and tested"),
        }
    }

    /// Schemathesis ends well also if its time was over before it came to every operation.
    fn check_all_were_tested(self) -> Result<()> {
        let Self { selected, tested } = self;
        if selected != tested || tested == 0 {
            bail!("schemathesis tested {tested} of {selected} operations; expected all of them");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_was_not_tested_is_noticed() {
        let text = |tested: u32| {
            format!("API Operations:\n  Selected: 80/82\n  Tested: {tested}\n\nTest Phases:\n")
        };
        let check = |text: &str| Counts::of(text)?.check_all_were_tested();
        assert!(check(&text(80)).is_ok());
        let error = check(&text(79)).unwrap_err();
        assert!(error.to_string().contains("79 of 80"), "{error}");
        assert!(check("no tests").is_err());
        assert!(check("Selected: 0/82\nTested: 0").is_err());
    }
}
