//! Verbs on what was deployed, on a data directory that no server has open: they take effect when one starts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::Server;
use crate::server_pipelines::{is_processed, pipeline, produce, variant, wait_until};
use crate::support::counting::{self, Workload};
use crate::support::{Sandbox, plugins};

const APPLY: [&str; 2] = ["apply", "millstream.toml"];

/// Serves until so many records are processed.
fn process(sandbox: &Sandbox, total: u64) {
    let server = Server::start(sandbox, &[]);
    wait_until("all records processed", || is_processed(sandbox, total));
    server.stop();
}

/// A sandbox with the counting manifest applied, and a workload of which so many records were processed.
fn processed(seed: u64, count: u64) -> (Sandbox, Workload) {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    sandbox.succeed(&APPLY);
    let mut workload = Workload::new(seed);
    produce(&sandbox, &mut workload, count);
    process(&sandbox, count);
    (sandbox, workload)
}

fn current(sandbox: &Sandbox) -> String {
    let described = sandbox.json(&["plugin", "describe", "count"]);
    described["current"].as_str().unwrap().to_owned()
}

/// Asserts which version all tasks of a pipeline run.
#[track_caller]
fn assert_runs(sandbox: &Sandbox, digest: &str) {
    let running = pipeline(sandbox, "count")["running"].clone();
    assert_eq!(running["state"], "running", "{running}");
    let tasks = running["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 4);
    for task in tasks {
        assert_eq!(task["plugin_digest"], digest);
    }
}

#[test]
fn what_is_applied_without_a_server_runs_when_one_starts() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let applied = sandbox.run(&APPLY).expect_code(0);
    assert_eq!(
        applied.stdout,
        "pipeline\tchange\ncount\tapplied\ncopy\tapplied\n"
    );
    assert!(
        applied.stderr.contains("`millstream serve` starts"),
        "{}",
        applied.stderr
    );
    let again = sandbox.json(&APPLY);
    assert_eq!(again["pipelines"][0]["change"], "unchanged");
    let listed = sandbox.json(&["plugin", "list"]);
    assert_eq!(listed[0]["used_by"], json!(["count"]));
    assert_eq!(listed[1]["used_by"], json!(["copy"]));
    let described = sandbox.json(&["plugin", "describe", "count"]);
    assert_eq!(described["keeps_state"], true);
    let deploys = sandbox.json(&["plugin", "deploys"]);
    assert_eq!(deploys.as_array().unwrap().len(), 2);
    let count = pipeline(&sandbox, "count");
    assert_eq!(count["desired_state"], "running");
    assert_eq!(count["running"], Value::Null);

    let mut workload = Workload::new(1);
    produce(&sandbox, &mut workload, 300);
    assert!(!is_processed(&sandbox, 300));
    process(&sandbox, 300);
    workload.assert_counted_once(&sandbox);
}

#[test]
fn a_manifest_that_is_wrong_is_not_applied() {
    let sandbox = Sandbox::new();
    // Neither is a data directory made for a component that is not there.
    sandbox.manifest(counting::MANIFEST);
    let manifest = std::fs::read_to_string(sandbox.path("millstream.toml")).unwrap();
    let missing = manifest.replace(".wasm", ".missing");
    sandbox.write("millstream.toml", missing);
    sandbox.run(&APPLY).expect_failure();
    assert!(!sandbox.data_dir().exists());
    // A plugin that cannot run refuses its pipeline, and no other.
    sandbox.write("millstream.toml", &manifest);
    sandbox.succeed(&["topic", "create", "events", "--partitions", "4"]);
    let producer = plugins::component("testing-counter");
    let producer = producer.to_str().unwrap();
    sandbox.succeed(&["plugin", "upload", "count", producer]);
    let applied = sandbox
        .run(&[&APPLY[..], &["--keep-plugins"]].concat())
        .expect_failure()
        .expect_error(&["plugin `passthrough` was not uploaded"]);
    assert!(applied.stdout.is_empty(), "{}", applied.stdout);
    let passthrough = plugins::component("passthrough");
    let passthrough = passthrough.to_str().unwrap();
    sandbox.succeed(&["plugin", "upload", "passthrough", passthrough]);
    let applied = sandbox
        .run(&[&APPLY[..], &["--keep-plugins"]].concat())
        .expect_code(1)
        .expect_error(&["`count` does not run", "no consumer"]);
    assert_eq!(
        applied.stdout,
        "pipeline\tchange\ncount\trefused\ncopy\tapplied\n"
    );
    // It is deployed by the manifest.
    sandbox.succeed(&APPLY);
    let mut workload = Workload::new(2);
    produce(&sandbox, &mut workload, 50);
    process(&sandbox, 50);
    workload.assert_counted_once(&sandbox);
}

#[test]
fn what_is_deployed_without_a_server_runs_when_one_starts() {
    let (sandbox, mut workload) = processed(3, 100);
    let old = current(&sandbox);
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let next = next.to_str().unwrap();
    let uploaded = sandbox.json(&["plugin", "upload", "count", next]);
    assert_eq!(
        (&uploaded["new"], &uploaded["current"]),
        (&json!(true), &json!(false))
    );
    let new = uploaded["digest"].as_str().unwrap();
    assert_eq!(current(&sandbox), old);

    let deployed = sandbox.json(&["plugin", "deploy", "count", &new[..12]]);
    assert_eq!(deployed["outcome"], "succeeded", "{deployed}");
    assert_eq!(deployed["pipelines"], json!(["count"]));
    assert_eq!(current(&sandbox), new);
    let server = Server::start(&sandbox, &[]);
    assert_runs(&sandbox, new);
    produce(&sandbox, &mut workload, 100);
    wait_until("200 records processed", || is_processed(&sandbox, 200));
    server.stop();

    let back = sandbox.json(&["plugin", "rollback", "count"]);
    assert_eq!(back["to"], old);
    let server = Server::start(&sandbox, &[]);
    assert_runs(&sandbox, &old);
    produce(&sandbox, &mut workload, 100);
    wait_until("300 records processed", || is_processed(&sandbox, 300));
    server.stop();
    workload.assert_counted_once(&sandbox);
}

#[test]
fn a_deploy_that_fails_without_a_server_leaves_the_version_before() {
    let (sandbox, _) = processed(4, 20);
    let old = current(&sandbox);
    let producer = plugins::component("testing-counter");
    let producer = producer.to_str().unwrap();
    let uploaded = sandbox.json(&["plugin", "upload", "count", producer]);
    assert_eq!(uploaded["misfits"][0]["pipeline"], "count");
    let misfit = uploaded["digest"].as_str().unwrap();
    sandbox
        .run(&["plugin", "deploy", "count", misfit])
        .expect_code(1)
        .expect_error(&["no consumer", "the version before it stays"]);
    assert_eq!(current(&sandbox), old);
    // One that fits and does not open is not what the pipeline is said to run.
    let closed = plugins::component("testing-open-fails");
    let closed = closed.to_str().unwrap();
    sandbox
        .run(&["plugin", "upload", "count", closed, "--deploy"])
        .expect_code(1)
        .expect_error(&["never opens"]);
    assert_eq!(current(&sandbox), old);
    assert_eq!(pipeline(&sandbox, "count")["plugin_digest"], old);

    // One that is cut off has not happened.
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let mut command = sandbox.command(&[
        "plugin",
        "upload",
        "count",
        next.to_str().unwrap(),
        "--deploy",
    ]);
    command.env("FAILPOINTS", "deploy::swapped=panic");
    sandbox.start_command(command).wait().expect_failure();
    let outcomes = || {
        let deploys = sandbox.json(&["plugin", "deploys"]);
        [0, 1, 2].map(|at| deploys[at]["outcome"].as_str().unwrap().to_owned())
    };
    // Whoever looks leaves it as it is.
    assert_eq!(outcomes(), ["running", "failed", "failed"]);
    sandbox.succeed(&["pipeline", "resume", "count"]);
    assert_eq!(outcomes(), ["interrupted", "failed", "failed"]);
    assert_eq!(current(&sandbox), old);
    let server = Server::start(&sandbox, &[]);
    assert_runs(&sandbox, &old);
    server.stop();
}

/// What came since the deploy is counted again, from the state that there was then.
#[test]
fn a_rollback_with_state_without_a_server_counts_again_from_the_deploy_on() {
    let (sandbox, mut workload) = processed(5, 300);
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let next = next.to_str().unwrap();
    sandbox.succeed(&["plugin", "upload", "count", next, "--deploy"]);
    produce(&sandbox, &mut workload, 200);
    process(&sandbox, 500);
    let back = ["plugin", "rollback", "count", "--with-state"];
    let mut fails = sandbox.command(&back);
    fails.env("FAILPOINTS", "deploy::state-restored=1*return");
    sandbox
        .start_command(fails)
        .wait()
        .expect_code(1)
        .expect_error(&["half put back"]);
    sandbox
        .run(&["pipeline", "resume", "count"])
        .expect_code(1)
        .expect_error(&["half put back", "--with-state"]);
    let back = sandbox.succeed(&back);
    assert!(back.contains(" succeeded, for count\n"), "{back}");
    assert!(
        back.contains("output\trecords\ntopic:counts\t200\n"),
        "{back}"
    );
    assert_eq!(pipeline(&sandbox, "count")["lag_records"], 200);
    process(&sandbox, 700);
    let mut counts = std::collections::BTreeMap::new();
    for output in sandbox.consume("counts") {
        let count: u64 = output.value_text().parse().unwrap();
        counts.insert(output.key_text().to_owned(), count);
    }
    assert_eq!(&counts, workload.sent());
}

#[test]
fn a_pause_without_a_server_holds_when_one_starts() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    sandbox.succeed(&APPLY);
    sandbox.succeed(&["pipeline", "pause", "count"]);
    assert_eq!(pipeline(&sandbox, "count")["desired_state"], "paused");
    let listed = sandbox.succeed(&["pipeline", "list"]);
    assert!(listed.contains("\tpaused\t"), "{listed}");
    assert!(listed.contains("\tstopped\t"), "{listed}");
    // What `run` runs is its own manifest, whatever was applied.
    let mut workload = Workload::new(6);
    workload.produce(&sandbox, 100);
    sandbox.run_until_idle();
    workload.assert_counted_once(&sandbox);

    let server = Server::start(&sandbox, &[]);
    let count = pipeline(&sandbox, "count");
    assert_eq!(count["running"]["state"], "paused");
    assert_eq!(count["desired_state"], "paused");
    assert_eq!(pipeline(&sandbox, "copy")["running"]["state"], "running");
    server.stop();
    sandbox.succeed(&["pipeline", "resume", "count"]);
    produce(&sandbox, &mut workload, 100);
    process(&sandbox, 200);
    workload.assert_counted_once(&sandbox);
    sandbox
        .run(&["pipeline", "pause", "nobody"])
        .expect_code(1)
        .expect_error(&["no manifest with a pipeline `nobody`", "`copy`, `count`"]);
}

#[test]
fn what_is_deleted_without_a_server_stays_away_when_one_starts() {
    let (sandbox, _) = processed(7, 40);
    sandbox
        .run(&["plugin", "delete", "count", "--yes"])
        .expect_code(1)
        .expect_error(&["`count` is used by"]);
    sandbox.succeed(&["pipeline", "delete", "copy", "--yes"]);
    sandbox.succeed(&["pipeline", "delete", "count", "--delete-data", "--yes"]);
    for plugin in ["count", "passthrough"] {
        sandbox.succeed(&["plugin", "delete", plugin, "--yes"]);
    }
    let components = std::fs::read_dir(sandbox.data_dir().join("plugins"));
    assert_eq!(components.unwrap().count(), 0);
    let server = Server::start(&sandbox, &[]);
    assert_eq!(server.get("/v1/manifests").expect(200).json(), json!([]));
    assert_eq!(server.get("/v1/plugins").expect(200).json(), json!([]));
    // What `copy` has done is kept.
    let pipelines = server.get("/v1/pipelines").expect(200).json();
    let names = pipelines.as_array().unwrap().iter();
    let names: Vec<_> = names.map(|it| it["name"].clone()).collect();
    assert_eq!(names, [json!("copy")]);
    server.stop();
}

#[test]
fn whoever_only_looks_brings_nothing_back() {
    let sandbox = Sandbox::new();
    // A topic that no pipeline uses: one that is used cannot be deleted.
    sandbox.manifest(&format!("{}\n[topics.spare]\n", counting::MANIFEST));
    sandbox.succeed(&APPLY);
    sandbox.succeed(&["topic", "delete", "spare", "--yes"]);
    let left = format!("plugins/{}.wasm", "0".repeat(64));
    let left = sandbox.data_dir().join(left);
    std::fs::write(&left, "what an upload that was cut off has left").unwrap();
    sandbox.succeed(&["plugin", "list"]);
    sandbox.succeed(&["pipeline", "list"]);
    assert!(left.exists());
    sandbox.succeed(&["pipeline", "pause", "count"]);
    assert!(!left.exists());
    let topics = sandbox.succeed(&["topic", "list"]);
    assert!(
        topics.contains("counts") && !topics.contains("spare"),
        "{topics}"
    );
    // A path that is mistyped makes no data directory.
    for verb in [["plugin", "list"], ["pipeline", "list"]] {
        let mut command = sandbox.bare_command(&verb);
        command.args(["--data-dir", "elsewhere"]);
        sandbox.start_command(command).wait().expect_code(3);
        assert!(!sandbox.path("elsewhere").exists());
    }
}

/// A deploy as it is listed.
fn deploy_of(sandbox: &Sandbox, id: &Value) -> Value {
    let deploys = sandbox.json(&["plugin", "deploys"]);
    let mut deploys = deploys.as_array().unwrap().iter();
    deploys.find(|it| it["id"] == *id).unwrap().clone()
}

/// Sends records while a deploy is under way on a server, and returns how it went. They are so few that nobody compares
/// how long they take, which depends on what else the machine does.
fn produce_during(sandbox: &Sandbox, workload: &mut Workload, id: &Value) -> Value {
    let mut deploy = deploy_of(sandbox, id);
    for turn in 0.. {
        if !deploy["ended_ms"].is_null() {
            break;
        }
        match turn < 15 {
            true => produce(sandbox, workload, 50),
            false => std::thread::sleep(Duration::from_millis(50)),
        }
        deploy = deploy_of(sandbox, id);
    }
    deploy
}

#[test]
fn a_trial_without_a_server_begins_with_the_next_one() {
    let (sandbox, mut workload) = processed(9, 100);
    let old = current(&sandbox);
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let next = next.to_str().unwrap();
    let uploaded = sandbox.json(&["plugin", "upload", "count", next]);
    let new = uploaded["digest"].as_str().unwrap();
    let try_out = |trial: &[&str]| {
        let deploy = ["plugin", "deploy", "count", &new[..12], "--for", "10s"];
        sandbox.json(&[&deploy[..], trial].concat())
    };
    let noted = try_out(&["--canary", "0,1"]);
    assert_eq!(noted["outcome"], "waiting", "{noted}");
    let id = noted["id"].clone();
    for refused in [
        &["plugin", "deploy", "count", new][..],
        &["plugin", "delete", "count", "--yes"],
        &APPLY,
    ] {
        sandbox
            .run(refused)
            .expect_code(1)
            .expect_error(&["waits for a server", "plugin stop-deploy"]);
    }
    let listed = sandbox.succeed(&["plugin", "deploys"]);
    assert!(listed.contains("\twaiting\n"), "{listed}");
    let stop = id.to_string();
    let withdrawn = sandbox.succeed(&["plugin", "stop-deploy", &stop]);
    assert!(withdrawn.contains(" withdrawn, "), "{withdrawn}");
    assert_eq!(deploy_of(&sandbox, &id)["outcome"], "withdrawn");
    sandbox
        .run(&[
            "plugin", "deploy", "count", new, "--canary", "9", "--for", "1s",
        ])
        .expect_code(2)
        .expect_error(&["has a partition 9: there are 4, from 0 to 3"]);

    let shadow = try_out(&["--shadow"]);
    assert_eq!(shadow["outcome"], "waiting", "{shadow}");
    // It is part of a backup.
    let (copy, restored) = (sandbox.path("copy"), sandbox.path("restored"));
    let (copy, restored) = (copy.to_str().unwrap(), restored.to_str().unwrap());
    sandbox.succeed(&["backup", copy]);
    let mut restore = sandbox.bare_command(&["restore", copy]);
    restore.args(["--data-dir", restored]);
    sandbox.start_command(restore).wait().expect_code(0);
    let mut deploys = sandbox.bare_command(&["plugin", "deploys", "--data-dir", restored]);
    deploys.args(["--output", "json"]);
    let deploys = sandbox.start_command(deploys).wait().expect_code(0);
    let deploys: Value = serde_json::from_str(&deploys.stdout).unwrap();
    assert_eq!(deploys[0], deploy_of(&sandbox, &shadow["id"]));

    let server = Server::start(&sandbox, &[]);
    let observed = produce_during(&sandbox, &mut workload, &shadow["id"]);
    assert_eq!(observed["outcome"], "observed", "{observed}");
    assert!(observed["report"]["pipelines"][0]["records"].as_u64() > Some(0));
    assert_runs(&sandbox, &old);
    server.stop();

    let said = sandbox.run(&[
        "plugin", "deploy", "count", new, "--canary", "0", "--for", "1h",
    ]);
    let said = said.expect_code(0);
    assert!(
        said.stdout.contains(" waiting, for count"),
        "{}",
        said.stdout
    );
    assert!(
        said.stderr.contains("the next `millstream serve`"),
        "{}",
        said.stderr
    );
    let id = sandbox.json(&["plugin", "deploys"])[0]["id"].clone();
    let server = Server::start(&sandbox, &[]);
    wait_until("the canary", || {
        deploy_of(&sandbox, &id)["outcome"] == "running"
    });
    let stopped = sandbox.succeed(&["plugin", "stop-deploy", &id.to_string()]);
    assert!(stopped.contains(" rolled-back, "), "{stopped}");
    server.stop();

    let canary = try_out(&["--canary", "0,1"]);
    let server = Server::start(&sandbox, &[]);
    let promoted = produce_during(&sandbox, &mut workload, &canary["id"]);
    assert_eq!(promoted["outcome"], "succeeded", "{promoted}");
    let took_ms = promoted["ended_ms"].as_u64().unwrap() - promoted["started_ms"].as_u64().unwrap();
    assert!(took_ms >= 10_000, "{took_ms} ms");
    assert_runs(&sandbox, new);
    let total = workload.sent().values().sum();
    wait_until("everything processed", || is_processed(&sandbox, total));
    server.stop();
    workload.assert_counted_once(&sandbox);
}

/// The stored log lines of the pipeline `suspect`, their numbers and messages.
fn logged(sandbox: &Sandbox) -> Vec<(u64, String)> {
    let lines = sandbox.succeed(&["logs", "suspect", "--output", "json"]);
    numbered(lines.lines().map(|it| serde_json::from_str(it).unwrap()))
}

/// The numbers and messages of log lines.
fn numbered(lines: impl IntoIterator<Item = Value>) -> Vec<(u64, String)> {
    let numbered = lines.into_iter().map(|line| {
        let message = line["message"].as_str().unwrap().to_owned();
        (line["number"].as_u64().unwrap(), message)
    });
    numbered.collect()
}

/// The log lines after a number that a server answers with.
fn served(server: &Server, after: u64) -> Vec<(u64, String)> {
    let answered = server.get(&format!("/v1/pipelines/suspect/logs?after={after}"));
    numbered(answered.expect(200).json().as_array().unwrap().clone())
}

fn log(server: &Server, value: &str, after: u64) -> Vec<(u64, String)> {
    server
        .post_lines(
            "/v1/topics/in/records",
            &format!("{{\"value\":\"{value}\"}}\n"),
        )
        .expect(200);
    wait_until("the line", || !served(server, after).is_empty());
    served(server, after)
}

#[test]
fn what_a_plugin_has_logged_is_shown_without_a_server() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-logs", 1, "");
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&APPLY);
    let mut known = log(&server, "a poison", 0);
    let file = sandbox.data_dir().join("logs/suspect.jsonl");
    wait_until("the stored line", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
    });
    server.kill();
    // As a crash of the machine leaves one that was being written.
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{whole}{{\"number\":")).unwrap();
    let shown = sandbox.run(&["logs", "suspect"]).expect_code(0);
    assert!(
        shown.stdout.contains("error [0] offset 0 is poison"),
        "{}",
        shown.stdout
    );
    assert!(shown.stderr.contains("no server runs"), "{}", shown.stderr);
    let shown = sandbox.run(&["logs", "suspect", "--no-follow"]);
    assert!(!shown.expect_code(0).stderr.contains("no server runs"));
    assert_eq!(logged(&sandbox), known);

    // What `run` runs logs to the same place.
    sandbox.produce("in", ["{}"], None);
    sandbox.run_until_idle();
    let all = logged(&sandbox);
    assert_eq!((all.len(), all[1].1.as_str()), (2, "offset 1"));
    assert!(all[1].0 > all[0].0);
    assert_eq!(all[..1], known);
    known = all;

    // The next server goes on where they end.
    let server = Server::start(&sandbox, &[]);
    assert_eq!(served(&server, 0), known);
    assert_eq!(served(&server, known[0].0), known[1..]);
    let added = log(&server, "again", known[1].0);
    assert!(added.len() == 1 && added[0].0 > known[1].0, "{added:?}");
    known.extend(added);
    assert_eq!(served(&server, 0), known);
    // A pipeline that goes on anew forgets nothing.
    sandbox.succeed(&["pipeline", "pause", "suspect"]);
    sandbox.succeed(&["pipeline", "resume", "suspect"]);
    assert_eq!(served(&server, 0), known);
    server.stop();
    assert_eq!(logged(&sandbox), known);

    // They are no data that pipelines need.
    sandbox.succeed(&["backup", sandbox.path("copy").to_str().unwrap()]);
    assert!(!sandbox.path("copy").join("logs").exists());
    sandbox.succeed(&["pipeline", "delete", "suspect", "--yes"]);
    assert!(!file.exists());
    assert_eq!(logged(&sandbox), []);
    sandbox
        .run(&["logs", "nobody"])
        .expect_code(1)
        .expect_error(&["there is no pipeline `nobody`", "`suspect`"]);
}

#[test]
fn signatures_are_checked_without_a_server_too() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let made = sandbox.json(&["plugin", "keygen", "ours.pem"]);
    let rules = ["--require-signature", "--trusted-key", "ours.pem.pub"];
    sandbox
        .run(&[&APPLY[..], &rules].concat())
        .expect_code(1)
        .expect_error(&["is not signed"]);
    assert_eq!(sandbox.json(&["plugin", "list"]), json!([]));
    sandbox.succeed(&[&APPLY[..], &rules, &["--sign", "ours.pem"]].concat());
    let described = sandbox.json(&["plugin", "describe", "count"]);
    assert_eq!(described["versions"][0]["signer"], made["id"]);
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let next = next.to_str().unwrap();
    let uploaded = sandbox.json(&["plugin", "upload", "count", next]);
    let deploy = [
        "plugin",
        "deploy",
        "count",
        uploaded["digest"].as_str().unwrap(),
    ];
    sandbox
        .run(&[&deploy[..], &rules].concat())
        .expect_code(1)
        .expect_error(&["is not signed"]);

    let mut workload = Workload::new(8);
    produce(&sandbox, &mut workload, 50);
    let server = Server::start(&sandbox, &rules);
    wait_until("50 records processed", || is_processed(&sandbox, 50));
    server.stop();
}
