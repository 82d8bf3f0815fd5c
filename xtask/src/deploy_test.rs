//! `cargo xtask deploy-plugin`, with what it builds and the server that it gives it to: one that is reached over TLS only,
//! with a token that may deploy and nothing else.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::context::Context;
use crate::deploy_plugin;
use crate::process::Cmd;
use crate::server::{Server, on};

/// Two plugins that a consumer can tell apart: one leaves values as they are, the other makes capitals of their letters.
const VERSIONS: [&str; 2] = ["plugins/passthrough", "plugins/map"];
const PLUGIN: &str = "relay";
const MANIFEST: &str = r#"
name = "relay"

[topics.in]

[topics.out]

[plugins.relay]
path = "PROJECT"

[pipelines.relay]
from = "topic:in"
start = "earliest"
plugin = "relay"
to = "topic:out"
"#;

/// Deploys one after the other on a pipeline that runs, with the command `millstream`.
pub fn run(context: &Context, millstream: &Cmd) -> Result<()> {
    let folder = context.target_dir().join("deploy-test");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let data_dir = folder.join("data");
    let token = |name, roles: &[&str]| create_token(millstream, &data_dir, name, roles);
    let deployer = token("deployer", &["deploy", "read"])?;
    let client = token("client", &["produce", "consume", "read"])?;
    let tls = context.root.join("tests/e2e/tls");
    let file = |name: &str| tls.join(name).display().to_string();
    let (certificates, key, ca) = (file("localhost.pem"), file("localhost.key"), file("ca.pem"));
    let options = ["--tls-certificates", &certificates, "--tls-key", &key];
    let server = Server::start(millstream, &data_dir, &options)?;
    // The name that is in the certificate.
    let url = server.url().replace("127.0.0.1", "localhost");
    ensure!(url.starts_with("https://"), "the server listens at {url}");
    let there = |token: &str, args: &[&str]| {
        let mut cmd = millstream.clone();
        cmd.dir(&folder)
            .args(["--server", &url, "--server-ca", &ca]);
        cmd.env("MILLSTREAM_TOKEN", token).args(args);
        cmd
    };
    let deploy = |version: &str| {
        let mut upload = millstream.clone();
        upload.env("MILLSTREAM_TOKEN", &deployer);
        let args = ["--server", &url, "--server-ca", &ca, "--name", PLUGIN];
        deploy_plugin::with(context, &upload, &context.root.join(version), &args)
    };
    let relayed = |value: &str| -> Result<Vec<String>> {
        let lines = folder.join("lines");
        fs::write(&lines, format!("{value}\n"))?;
        let lines = lines.display().to_string();
        let produce = ["produce", "topic:in", "--format", "lines", "--file", &lines];
        there(&client, &produce).run()?;
        let consume = [
            "consume",
            "topic:out",
            "--group",
            "test",
            "--from",
            "earliest",
        ];
        let mut consume = there(&client, &consume);
        consume.args(["--follow", "--max", "1", "--output", "json"]);
        let records = consume.output()?;
        let values = records.lines().map(|line| -> Result<String> {
            let record: Value = serde_json::from_str(line)?;
            Ok(record["value"].as_str().unwrap_or_default().to_owned())
        });
        values.collect()
    };

    let [first, second] = VERSIONS;
    deploy(first)?;
    let project = context.root.join(first).display().to_string();
    let manifest = MANIFEST.replace("PROJECT", &project);
    fs::write(folder.join("relay.toml"), manifest)?;
    there(&deployer, &["apply", "relay.toml"]).run()?;
    expect(first, &relayed("one")?, "one")?;
    deploy(second)?;
    expect(second, &relayed("two")?, "TWO")
}

fn create_token(millstream: &Cmd, data_dir: &Path, name: &str, roles: &[&str]) -> Result<String> {
    let mut create = on(millstream, data_dir, &["--output", "json"]);
    create.args(["token", "create", name]);
    for role in roles {
        create.args(["--role", role]);
    }
    let created: Value = serde_json::from_str(&create.output()?)?;
    let token = created["token"].as_str();
    Ok(token.context("no token was printed")?.to_owned())
}

fn expect(version: &str, found: &[String], expected: &str) -> Result<()> {
    ensure!(
        found == [expected],
        "with {version} {found:?} came out; expected `{expected}` and nothing of before or twice"
    );
    Ok(())
}
