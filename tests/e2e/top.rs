//! `millstream top`, with a server and without, in a pipe and on a terminal.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::server::Server;
use crate::support::counting;
use crate::support::{Running, Sandbox, note};

/// What goes to the terminal's other screen, and back.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
/// Clears what has scrolled off the first one, too.
const CLEAR_ALL: &str = "\x1b[3J";

/// Fails when it goes on looking at what does not move, and keeps the data directory meanwhile; and when it does not know
/// what was applied.
#[test]
fn without_a_server_it_looks_once_at_what_was_applied() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    sandbox.succeed(&["apply", "millstream.toml"]);
    sandbox.succeed(&["pipeline", "pause", "count"]);
    let looked = sandbox.run(&["top"]).expect_code(0);
    assert_eq!(
        looked.stdout,
        "pipeline\tstate\trecords/s\tlag records\tlag\tretries\twaiting for retry\tdead letters\n\
         copy\tstopped\t-\t0\t-\t-\t-\t-\n\
         count\tpaused\t-\t0\t-\t-\t-\t-\n"
    );
    let said = &looked.stderr;
    assert!(
        said.contains("no server runs on the data directory"),
        "{said}"
    );
    let pipelines = sandbox.json(&["top", "--count", "3"]);
    assert_eq!(pipelines, sandbox.json(&["pipeline", "list"]));
    assert_eq!(pipelines[1]["desired_state"], json!("paused"));
}

#[test]
fn in_a_pipe_each_look_is_a_table() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let looks = sandbox.succeed(&["top", "--count", "2", "--interval", "10ms"]);
    assert_eq!(looks.matches("pipeline\tstate\t").count(), 2, "{looks}");
    assert_eq!(looks.matches("\ncount\trunning\t").count(), 2, "{looks}");
    assert!(!looks.contains('\x1b'), "{looks}");
    server.stop();
}

/// `top` on a terminal with so many lines; `None` where there is no `script`, which makes terminals.
fn on_a_terminal(sandbox: &Sandbox, lines: u32, arguments: &[&str]) -> Option<Running> {
    let script = Command::new("script").arg("--version").output();
    if !script.is_ok_and(|answer| answer.status.success()) {
        note("there is no `script`: `top` was not looked at on a terminal");
        return None;
    }
    let top = sandbox.command(&[&["top"], arguments].concat());
    let words = std::iter::once(top.get_program()).chain(top.get_args());
    let words: Vec<_> = words.map(|word| format!("'{}'", word.display())).collect();
    let line = format!("stty rows {lines} cols 120; exec {}", words.join(" "));
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped());
    Some(sandbox.start_command(command))
}

fn with_pipelines() -> (Sandbox, Server) {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    (sandbox, server)
}

/// Fails when what has scrolled off the terminal is erased, and when a table is longer than the terminal.
#[test]
fn on_a_terminal_it_has_its_own_screen_and_fits() {
    let (sandbox, server) = with_pipelines();
    let looks = ["--count", "3", "--interval", "10ms"];
    let Some(mut top) = on_a_terminal(&sandbox, 5, &looks) else {
        return;
    };
    let input = top.stdin();
    let shown = top.wait().expect_code(0).stdout;
    drop(input);
    assert!(!shown.contains(CLEAR_ALL), "{shown}");
    let (before, rest) = shown.split_once(ENTER).expect(&shown);
    let (on_it, after) = rest.split_once(LEAVE).expect(&shown);
    assert!(!before.contains("pipeline"), "{shown}");
    assert!(on_it.contains("… and 2 more pipelines"), "{shown}");
    // What scrolls off its first line cannot be read.
    for frame in on_it.split("\x1b[H").skip(1) {
        assert!(frame.matches('\n').count() < 5, "{frame}");
    }
    assert!(after.contains("count") && after.contains("copy"), "{shown}");
    server.stop();
}

#[test]
fn ctrl_c_leaves_its_screen() {
    let (sandbox, server) = with_pipelines();
    let Some(mut top) = on_a_terminal(&sandbox, 20, &[]) else {
        return;
    };
    let mut terminal = top.stdin();
    top.wait_until("a table", |top| top.stdout().contains("running"));
    terminal.write_all(b"\x03").unwrap();
    let shown = top.wait().expect_code(0).stdout;
    assert!(
        shown.contains(ENTER) && shown.trim_end().ends_with(LEAVE),
        "{shown}"
    );
    server.stop();
}

#[test]
fn an_error_is_told_on_the_first_screen() {
    let (sandbox, server) = with_pipelines();
    let arguments = ["--interval", "10ms"];
    let Some(mut top) = on_a_terminal(&sandbox, 20, &arguments) else {
        return;
    };
    let terminal = top.stdin();
    top.wait_until("a table", |top| top.stdout().contains("running"));
    server.kill();
    let shown = top.wait().expect_code(3).stdout;
    drop(terminal);
    let (_, after) = shown.rsplit_once(LEAVE).expect(&shown);
    assert!(after.contains("error: cannot reach the server"), "{shown}");
}
