//! Each verb of the command line, on a server, with a token of the one role that it is for.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::server::Server;
use crate::server_pipelines::{variant, wait_until};
use crate::support::{Finished, Sandbox, plugins};

/// What asks no server.
const WITHOUT_A_SERVER: &[&str] = &[
    "bench", // each of them
    "check",
    "completions",
    "man",
    "plugin keygen",
    "plugin sign",
    "restore",
    "run",
    "serve",
    "verify",
];

/// Lines, the role that each needs, and how it ends. In them `NEXT` is the digest of a version of the plugin `suspect`,
/// `TRIAL` the number of a deploy that is under way, and `FOLDER` the sandbox.
const VERBS: &[(&str, &str, i32)] = &[
    ("health", "read", 0),
    ("topic list", "read", 0),
    ("topic describe in", "read", 0),
    ("queue list", "read", 0),
    ("queue describe q", "read", 0),
    ("group list", "read", 0),
    ("group describe g", "read", 0),
    ("pipeline list", "read", 0),
    ("pipeline describe suspect", "read", 0),
    ("plugin list", "read", 0),
    ("plugin describe suspect", "read", 0),
    ("plugin deploys", "read", 0),
    ("top --count 1", "read", 0),
    ("logs suspect --no-follow", "read", 0),
    ("produce topic:t --file records.jsonl", "produce", 0),
    (
        "produce topic:t --file records.jsonl --resume",
        "produce",
        0,
    ),
    (
        "produce topic:t --create --file records.jsonl",
        "produce",
        0,
    ),
    ("produce queue:q --file records.jsonl", "produce", 0),
    ("consume topic:t", "consume", 0),
    ("consume topic:t --group mine --max 1", "consume", 0),
    ("consume queue:q --ack --max 1", "consume", 0),
    ("consume queue:q --peek", "consume", 0),
    ("queue peek q", "consume", 0),
    ("dead-letter list suspect", "consume", 0),
    ("dead-letter show suspect 0", "consume", 0),
    ("dead-letter export suspect", "consume", 0),
    (
        "dead-letter export suspect --file letters.jsonl",
        "consume",
        0,
    ),
    // The plugin fails on the record again.
    (
        "dead-letter replay suspect 0 --plugin suspect.wasm",
        "consume",
        4,
    ),
    ("plugin stop-deploy TRIAL", "deploy", 0),
    ("apply millstream.toml", "deploy", 0),
    ("plugin upload suspect next.wasm", "deploy", 0),
    // No record comes to it, so it is taken back.
    (
        "plugin deploy suspect NEXT --canary 0 --for 300ms",
        "deploy",
        1,
    ),
    (
        "plugin deploy suspect NEXT --shadow --for 300ms",
        "deploy",
        0,
    ),
    ("plugin upload suspect next.wasm --deploy", "deploy", 0),
    ("plugin rollback suspect", "deploy", 0),
    ("dead-letter redrive suspect --dry-run", "deploy", 0),
    ("dead-letter redrive suspect --max 1 --rate 10", "deploy", 0),
    ("dead-letter purge suspect --yes", "deploy", 0),
    ("pipeline pause suspect", "deploy", 0),
    ("pipeline resume suspect", "deploy", 0),
    ("pipeline delete suspect --yes", "deploy", 0),
    ("plugin delete suspect --yes", "deploy", 0),
    ("topic create u", "admin", 0),
    ("topic alter u --retention 1h", "admin", 0),
    ("topic compact compacted", "admin", 0),
    ("topic delete u --yes", "admin", 0),
    ("queue create v", "admin", 0),
    ("queue purge v --yes", "admin", 0),
    ("queue delete v --yes", "admin", 0),
    ("group reset g --topic t --to earliest", "admin", 0),
    ("group delete g --yes", "admin", 0),
    ("token create new --role read", "admin", 0),
    ("token list", "admin", 0),
    ("token revoke new", "admin", 0),
    ("backup FOLDER/backup", "admin", 0),
];

/// A sandbox with something of everything, its server, the digest of a version that is tried out, and the number of that
/// deploy.
fn scene() -> (Sandbox, Server, String, u64) {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-rejects", 2, "");
    let component = std::fs::read(plugins::component("testing-rejects")).unwrap();
    sandbox.write("suspect.wasm", component);
    variant(&sandbox, "testing-rejects", "next");
    let lines = (0..4).map(|number| json!({ "number": number }).to_string());
    sandbox.write_lines("records.jsonl", lines);
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["topic", "create", "t"]);
    sandbox.succeed(&["topic", "create", "compacted", "--cleanup", "compact"]);
    sandbox.succeed(&["queue", "create", "q"]);
    sandbox.succeed(&["produce", "topic:t", "--file", "records.jsonl"]);
    sandbox.succeed(&["consume", "topic:t", "--group", "g"]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let poison = "{\"value\":\"poison 1\"}\n{\"value\":\"poison 2\"}\n";
    server
        .post_lines("/v1/topics/in/records", poison)
        .expect(200);
    wait_until("two dead letters", || {
        let letters = sandbox.run(&["dead-letter", "list", "suspect", "--output", "json"]);
        serde_json::from_str(&letters.stdout)
            .is_ok_and(|letters: Value| letters.as_array().is_some_and(|all| all.len() == 2))
    });
    let uploaded = sandbox.json(&["plugin", "upload", "suspect", "next.wasm"]);
    let next = uploaded["digest"].as_str().unwrap().to_owned();
    let trial = json!({ "digest": next, "shadow": true, "duration_ms": 3_600_000 });
    let trial = server
        .post("/v1/plugins/suspect/deploy", &trial)
        .expect(200);
    let trial = trial.json()["id"].as_u64().unwrap();
    (sandbox, server, next, trial)
}

/// Runs a verb from elsewhere.
fn run(sandbox: &Sandbox, server: &Server, words: &[&str], token: &str) -> Finished {
    let mut command = sandbox.bare_command(words);
    command.args(["--server", server.url(), "--token", token]);
    sandbox.start_command(command).wait()
}

/// Fails when a verb needs more than one role, also if only after it has acted.
#[test]
fn each_verb_needs_one_role() {
    let (sandbox, server, next, trial) = scene();
    let token = |role: &str| {
        let name = format!("{role}-only");
        let created = sandbox.json(&["token", "create", &name, "--role", role]);
        created["token"].as_str().unwrap().to_owned()
    };
    let roles = ["read", "produce", "consume", "deploy", "admin"];
    let tokens = roles.map(|role| (role, token(role)));
    let token_of = |role: &str| {
        let mut tokens = tokens.iter();
        &tokens.find(|(of, _)| *of == role).unwrap().1
    };
    let (trial, folder) = (trial.to_string(), sandbox.path(""));
    for (line, role, code) in VERBS {
        let line = line
            .replace("NEXT", &next)
            .replace("TRIAL", &trial)
            .replace("FOLDER/", folder.to_str().unwrap());
        let words: Vec<_> = line.split(' ').collect();
        let ended = run(&sandbox, &server, &words, token_of(role));
        assert!(!ended.stderr.contains("role"), "{line}: {}", ended.stderr);
        ended.expect_code(*code);
    }
    // What is open to several roles names them, and looking is no change that is written down.
    let refused = |words: &[&str], role: &str, parts: &[&str]| {
        run(&sandbox, &server, words, token_of(role))
            .expect_code(1)
            .expect_error(parts);
    };
    let describe = ["topic", "describe", "t"];
    refused(
        &describe,
        "consume",
        &["none of the roles `read`, `produce`"],
    );
    refused(&["topic", "list"], "produce", &["not have the role `read`"]);
    let consume = ["consume", "topic:t"];
    refused(
        &consume,
        "produce",
        &["none of the roles `read`, `consume`"],
    );
    refused(&["token", "list"], "deploy", &["not have the role `admin`"]);
    server.stop();
    let audit = std::fs::read_to_string(sandbox.data_dir().join("audit.jsonl")).unwrap();
    assert!(audit.contains("\"token\":\"deploy-only\""), "{audit}");
    assert!(!audit.contains("\"method\":\"GET\""), "{audit}");
    assert!(!audit.contains("\"token\":\"produce-only\""), "{audit}");
}

/// Fails when there is a verb that the table above does not have.
#[test]
fn each_verb_is_in_the_table() {
    let sandbox = Sandbox::new();
    sandbox
        .start_command(sandbox.bare_command(&["man", "pages"]))
        .wait()
        .expect_code(0);
    let pages = std::fs::read_dir(sandbox.path("pages")).unwrap();
    let pages: BTreeSet<String> = pages
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .filter_map(|page| {
            Some(
                page.strip_suffix(".1")?
                    .strip_prefix("millstream-")?
                    .to_owned(),
            )
        })
        .collect();
    let is_group = |page: &str| {
        pages
            .iter()
            .any(|other| other.starts_with(&format!("{page}-")))
    };
    let verbs = pages.iter().filter(|page| !is_group(page));
    let lines: Vec<String> = VERBS
        .iter()
        .map(|(line, ..)| *line)
        .chain(WITHOUT_A_SERVER.iter().copied())
        .map(|line| line.replace(' ', "-"))
        .collect();
    let missing: Vec<_> = verbs
        .filter(|verb| {
            let is_of = |line: &String| line == *verb || line.starts_with(&format!("{verb}-"));
            !lines.iter().any(is_of) && !verb.starts_with("bench-")
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
