//! `backup`, `restore` and `verify`, as an operator uses them; and kills of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::Server;
use crate::support::{Answer, Finished, Running, Sandbox, Service};

const RECORDS: usize = 3_000;
/// How long a command that was seen at work needs to the step at which it stands.
const TO_THE_STEP: Duration = Duration::from_millis(300);

/// A topic, a queue and a group, in several files of the store.
fn with_data() -> Sandbox {
    let sandbox = Sandbox::new();
    let value = "x".repeat(300);
    let lines = (0..RECORDS).map(|number| format!(r#"{{"number":{number},"value":"{value}"}}"#));
    let file = sandbox.write_lines("in.jsonl", lines);
    let file = file.to_str().unwrap();
    sandbox.succeed(&["produce", "topic:numbers", "--create", "--file", file]);
    sandbox.succeed(&["queue", "create", "work"]);
    sandbox.succeed(&["produce", "queue:work", "--file", file, "--max", "10"]);
    let consume = [
        "consume",
        "topic:numbers",
        "--group",
        "readers",
        "--max",
        "100",
    ];
    sandbox.succeed(&consume);
    sandbox
}

fn path(sandbox: &Sandbox, name: &str) -> String {
    sandbox.path(name).to_str().unwrap().to_owned()
}

/// `restore` into another data directory.
fn restore(sandbox: &Sandbox, backup: &str, data_dir: &str) -> Running {
    let command = sandbox.bare_command(&["restore", backup, "--data-dir", data_dir]);
    sandbox.start_command(command)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files
}

fn records_of(sandbox: &Sandbox, data_dir: &str) -> usize {
    let arguments = [
        "consume",
        "topic:numbers",
        "--from",
        "earliest",
        "--data-dir",
        data_dir,
    ];
    let command = sandbox.bare_command(&arguments);
    let finished = sandbox.start_command(command).wait().expect_code(0);
    finished.stdout.lines().count()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("backup") || name.starts_with("restored"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_backup_is_restored_verified_and_read() {
    let sandbox = with_data();
    let backup = path(&sandbox, "backup");
    let taken = sandbox.json(&["backup", &backup]);
    assert!(taken["size_bytes"].as_u64().unwrap() > 100_000, "{taken}");
    let report = sandbox.json(&["verify", "--backup", &backup]);
    assert_eq!(report["problem_count"], 0, "{report}");
    assert_eq!(report["counts"]["backup_files"], taken["files"]);
    assert_eq!(report["counts"]["records"], (RECORDS + 10) as u64);
    assert_eq!(report["counts"]["group_offsets"], 1);

    // What comes after it is not in it.
    let more = sandbox.write_lines("more.jsonl", ["1", "2"]);
    let more = more.to_str().unwrap();
    sandbox.succeed(&["produce", "topic:numbers", "--file", more]);
    let restored = path(&sandbox, "restored");
    restore(&sandbox, &backup, &restored).wait().expect_code(0);
    assert_eq!(records_of(&sandbox, &restored), RECORDS);
    assert_eq!(sandbox.consume("numbers").len(), RECORDS + 2);
    for data_dir in [restored.clone(), path(&sandbox, "data")] {
        let arguments = ["verify", "--data-dir", &data_dir];
        let finished = sandbox
            .start_command(sandbox.bare_command(&arguments))
            .wait();
        assert!(finished.expect_code(0).stdout.contains("nothing is wrong"));
    }
    sandbox
        .run(&["backup", &backup])
        .expect_code(2)
        .expect_error(&["exists already", "name a folder that does not exist"]);
    restore(&sandbox, &backup, &restored)
        .wait()
        .expect_code(3)
        .expect_error(&["is not empty", "--data-dir"]);
    restore(&sandbox, &path(&sandbox, "data"), &path(&sandbox, "other"))
        .wait()
        .expect_code(2)
        .expect_error(&["is no backup of millstream"]);
}

#[test]
fn a_killed_restore_leaves_no_data_directory_and_the_next_one_succeeds() {
    let sandbox = with_data();
    let (backup, restored) = (path(&sandbox, "backup"), path(&sandbox, "restored"));
    sandbox.succeed(&["backup", &backup]);
    let steps = [
        "restore::file=",
        "restore::file=4*off->",
        "restore::before-rename=",
    ];
    for step in steps {
        let mut command = sandbox.bare_command(&["restore", &backup, "--data-dir", &restored]);
        command.env("FAILPOINTS", format!("{step}sleep(60000)"));
        let mut running = sandbox.start_command(command);
        let partial = sandbox.path("restored.millstream-partial");
        running.wait_until("a file", |_| !files_below(&partial).is_empty());
        std::thread::sleep(TO_THE_STEP);
        assert!(running.kill().0, "{step}: it ended by itself");
        assert!(!sandbox.path("restored").exists(), "{step}");
        assert!(
            sandbox.path("restored.millstream-partial").exists(),
            "{step}"
        );
    }
    restore(&sandbox, &backup, &restored).wait().expect_code(0);
    assert_eq!(records_of(&sandbox, &restored), RECORDS);
    assert_eq!(
        entries(sandbox.path("x").parent().unwrap()),
        ["backup", "restored"]
    );
}

#[test]
fn a_killed_backup_leaves_no_backup_and_the_next_one_succeeds() {
    let sandbox = with_data();
    let backup = path(&sandbox, "backup");
    for step in ["backup::after-checkpoint", "backup::file"] {
        let mut command = sandbox.command(&["backup", &backup]);
        command.env("FAILPOINTS", format!("{step}=sleep(60000)"));
        let mut running = sandbox.start_command(command);
        let current = sandbox.path("backup.millstream-partial/store/CURRENT");
        running.wait_until("a checkpoint", |_| current.exists());
        assert!(running.kill().0, "{step}: it ended by itself");
        assert!(!sandbox.path("backup").exists(), "{step}");
    }
    sandbox.succeed(&["backup", &backup]);
    let report = sandbox.json(&["verify", "--backup", &backup]);
    assert_eq!(report["problem_count"], 0, "{report}");
    assert_eq!(entries(sandbox.path("x").parent().unwrap()), ["backup"]);
}

/// Fails when the empty folder of one that was cut off there blocks the next one.
#[test]
fn a_backup_that_ends_before_its_folder_is_noted_blocks_no_other() {
    let sandbox = with_data();
    let backup = path(&sandbox, "backup");
    let with = |action: &str| {
        let mut command = sandbox.command(&["backup", &backup]);
        command.env("FAILPOINTS", format!("backup::folder-made={action}"));
        sandbox.start_command(command)
    };
    let partial = sandbox.path("backup.millstream-partial");
    let mut running = with("sleep(60000)");
    running.wait_until("the folder", |_| partial.exists());
    std::thread::sleep(TO_THE_STEP);
    assert!(running.kill().0, "it ended by itself");
    assert_eq!(fs::read_dir(&partial).unwrap().count(), 0);
    with("return(no space left)")
        .wait()
        .expect_code(1)
        .expect_error(&["no space left"]);
    assert_eq!(entries(sandbox.path("x").parent().unwrap()), [""; 0]);
    // One that fails leaves nothing, also not to one that does not know how a killed one ends.
    assert!(!partial.exists());
    sandbox.succeed(&["backup", &backup]);
    assert_eq!(entries(sandbox.path("x").parent().unwrap()), ["backup"]);
}

#[test]
fn damage_is_named_with_exit_code_1() {
    let sandbox = with_data();
    sandbox.will_be_damaged();
    let backup = path(&sandbox, "backup");
    sandbox.succeed(&["backup", &backup]);
    let blob = fs::read_dir(sandbox.path("backup/store"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|file| file.extension().is_some_and(|end| end == "blob"))
        .unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // Not in place: the data directory has the same file.
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, bytes).unwrap();

    let finished = sandbox.run(&["verify", "--backup", &backup, "--output", "json"]);
    let report: Value = serde_json::from_str(&finished.expect_code(1).stdout).unwrap();
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(problems[0]["kind"], "file", "{report}");
    let unreadable = problems
        .iter()
        .find(|it| it["kind"] == "unreadable")
        .unwrap();
    assert_eq!(unreadable["topic"], "numbers", "{report}");
    assert!(
        unreadable["advice"]
            .as_str()
            .unwrap()
            .contains("group reset"),
        "{report}"
    );
    let finished = sandbox.run(&["verify", "--backup", &backup]).expect_code(1);
    assert!(finished.stdout.contains("problems"), "{}", finished.stdout);
    restore(&sandbox, &backup, &path(&sandbox, "restored"))
        .wait()
        .expect_code(1)
        .expect_error(&["is damaged, and nothing was restored", ".blob"]);
    assert_eq!(entries(sandbox.path("x").parent().unwrap()), ["backup"]);
    // The data directory has its own name for an intact file.
    assert_eq!(sandbox.json(&["verify"])["problem_count"], 0);
    let nowhere = sandbox.bare_command(&["verify", "--data-dir", &path(&sandbox, "nowhere")]);
    sandbox.start_command(nowhere).wait().expect_code(3);
}

#[test]
fn a_server_is_backed_up_while_it_takes_records() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    server
        .post("/v1/topics", &json!({"name": "numbers"}))
        .expect(201);
    let is_over = AtomicBool::new(false);
    let acknowledged = AtomicUsize::new(0);
    let backup = path(&sandbox, "backup");
    let before = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let lines = "{\"value\":\"x\"}\n".repeat(50);
                server
                    .post_lines("/v1/topics/numbers/records", &lines)
                    .expect(200);
                acknowledged.fetch_add(50, Ordering::SeqCst);
            }
        });
        while acknowledged.load(Ordering::SeqCst) < 1_000 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = acknowledged.load(Ordering::SeqCst);
        let taken = sandbox.run(&["backup", "backup", "--output", "json"]);
        // Writers went on.
        let after = acknowledged.load(Ordering::SeqCst);
        is_over.store(true, Ordering::Relaxed);
        let taken: Value = serde_json::from_str(&taken.expect_code(0).stdout).unwrap();
        assert_eq!(taken["backup"], backup.as_str());
        assert!(after > before, "{after} after the backup, {before} before");
        before
    });
    let all = acknowledged.load(Ordering::SeqCst);

    let report = sandbox.json(&["verify", "--backup", &backup]);
    assert_eq!(report["problem_count"], 0, "{report}");
    let restored = path(&sandbox, "restored");
    restore(&sandbox, &backup, &restored).wait().expect_code(0);
    let count = records_of(&sandbox, &restored);
    assert!(
        (before..=all).contains(&count),
        "{before} <= {count} <= {all}"
    );
    assert_eq!(count % 50, 0, "a commit is there as a whole");

    // What a server needs the directory for.
    sandbox
        .run(&["verify"])
        .expect_code(3)
        .expect_error(&["millstream backup DIR", "verify --backup DIR"]);
    sandbox
        .run(&["verify", "--server", "http://127.0.0.1:1"])
        .expect_code(2)
        .expect_error(&["asks no server"]);
    server.stop();
    let audit = fs::read_to_string(sandbox.data_dir().join("audit.jsonl")).unwrap();
    let line = audit.lines().find(|line| line.contains("/v1/backups"));
    let line: Value = serde_json::from_str(line.unwrap()).unwrap();
    assert_eq!(line["subject"], backup.as_str());
    assert_eq!(line["status"], 202);
}

/// The command asks how it goes, so that no answer is waited for as long as a backup takes.
#[test]
fn a_backup_goes_on_without_anybody_waiting_for_its_answer() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("FAILPOINTS", "backup::after-checkpoint=1*sleep(10000)->off");
    let server = Server::of(sandbox.start_command(command));
    let backup = path(&sandbox, "backup");
    let begun = server
        .post("/v1/backups", &json!({ "folder": backup, "detach": true }))
        .expect(202)
        .json();
    assert_eq!(begun["running"], true, "{begun}");
    let status_of = |id: &Value| {
        let status = server.get(&format!("/v1/backups/{id}"));
        status.expect(200).json()
    };
    assert_eq!(status_of(&begun["id"])["running"], true);
    assert!(!sandbox.path("backup").exists());
    let mut status = begun.clone();
    while status["running"] == true {
        std::thread::sleep(Duration::from_millis(20));
        status = status_of(&begun["id"]);
    }
    assert_eq!(status["made"]["folder"], backup.as_str(), "{status}");
    assert_eq!(
        sandbox.json(&["verify", "--backup", &backup])["problem_count"],
        0
    );

    // Whoever hears that it has ended can begin the next one, and hears why that cannot be made.
    let again = server
        .post("/v1/backups", &json!({ "folder": backup, "detach": true }))
        .expect(202)
        .json();
    let mut status = again.clone();
    while status["running"] == true {
        status = status_of(&again["id"]);
    }
    assert_eq!(status["problem"]["code"], "already-exists", "{status}");
    server
        .get("/v1/backups/99")
        .expect_problem(404, "unknown-backup");
    // Who does not ask finds it in the log: what was written down of the request is that it has begun.
    let log = server.stop();
    log.expect_error(&["a backup could not be made", "exists already"]);
}

#[test]
fn a_server_refuses_backups_that_cannot_be() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env(
        "FAILPOINTS",
        "backup::file=sleep(2000);backup::folder-made=1*return(No space left on device)->off",
    );
    let server = Server::of(sandbox.start_command(command));
    let ask = |folder: &str| server.post("/v1/backups", &json!({ "folder": folder }));
    ask("backup").expect_problem(400, "invalid-request");
    let inside = sandbox.data_dir().join("backup");
    ask(inside.to_str().unwrap()).expect_problem(400, "invalid-request");
    ask(&path(&sandbox, "data")).expect_problem(409, "already-exists");
    ask(&path(&sandbox, "missing/backup")).expect_problem(409, "backup-failed");
    ask(&path(&sandbox, "full")).expect_problem(507, "disk-full");
    let url = server.url().to_owned();
    sandbox
        .run(&["backup", "backup", "--server", &url])
        .expect_code(2)
        .expect_error(&["machine of the server", "whole path"]);
    let existing = path(&sandbox, "data");
    sandbox
        .run(&["backup", &existing])
        .expect_code(2)
        .expect_error(&["exists already"]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&path(&sandbox, "first")));
        let partial = sandbox.path("first.millstream-partial");
        while !partial.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        ask(&path(&sandbox, "second")).expect_problem(409, "backup-under-way");
        first.join().unwrap().expect(201);
    });
    ask(&path(&sandbox, "second")).expect(201);
}

/// What a server says of a backup.
fn status(made: &Value, problem: &Value) -> String {
    let is_running = made.is_null() && problem.is_null();
    json!({ "id": 7, "folder": "/x", "running": is_running, "made": made, "problem": problem })
        .to_string()
}

fn problem(status: u16, code: &str) -> Value {
    let kind = format!("/errors/{code}");
    json!({ "type": kind, "title": "t", "status": status, "detail": "so it is", "code": code })
}

/// A server that says these things, one after the other; and how `backup` ends then.
fn backup_of_a_server(answers: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Finished {
    let service = Service::start(move |call| answers(call.count));
    let url = format!("http://{}", service.authority());
    Sandbox::new().run(&["backup", "/x", "--server", &url])
}

/// Fails when a backup that goes on is given up on since one answer did not come.
#[test]
fn the_command_asks_again_if_an_answer_does_not_come() {
    let made = json!({
        "folder": "/x", "data_dir": "/d", "taken_at_ms": 1, "millstream_version": "1.2.3",
        "files": 12, "size_bytes": 99,
    });
    let none = Value::Null;
    let finished = backup_of_a_server(move |call| match call {
        1 => Answer::Status(202, status(&none, &none)),
        2 => Answer::Close,
        3 => Answer::Status(503, problem(503, "unavailable").to_string()),
        4 => Answer::Status(200, status(&none, &none)),
        _ => Answer::Status(200, status(&made, &none)),
    });
    assert!(finished.expect_code(0).stdout.contains("1.2.3"));
}

/// Fails when what is wrong with the question is taken for what is wrong with the backup, and the other way round.
#[test]
fn a_question_that_is_refused_and_a_backup_that_fails_end_differently() {
    let none = Value::Null;
    let unknown = backup_of_a_server(move |call| match call {
        1 => Answer::Status(202, status(&none, &none)),
        _ => Answer::Status(404, problem(404, "unknown-backup").to_string()),
    });
    unknown
        .expect_code(1)
        .expect_error(&["does not say how it goes", "so it is"]);
    let exists = backup_of_a_server(|call| match call {
        1 => Answer::Status(202, status(&Value::Null, &Value::Null)),
        _ => Answer::Status(200, status(&Value::Null, &problem(409, "already-exists"))),
    });
    let exists = exists.expect_code(2).expect_error(&["so it is"]);
    assert!(!exists.stderr.contains("does not say"), "{}", exists.stderr);
}
