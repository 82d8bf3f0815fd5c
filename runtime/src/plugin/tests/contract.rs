//! Components that are no plugins, and what is said about them.

use super::{guest::assemble, *};

fn refusal(text: &str) -> String {
    ENGINE
        .load(assemble(text), "p.wasm")
        .unwrap_err()
        .to_string()
}

#[test]
fn a_core_module_is_told_from_a_component() {
    let refused = refusal("(module)");
    assert!(
        refused.starts_with("p.wasm is a core WebAssembly module, not a component"),
        "{refused}"
    );
    assert!(refused.contains("--target wasm32-wasip2"), "{refused}");
    assert!(
        refused.contains("wasm-tools component new p.wasm"),
        "{refused}"
    );
}

#[test]
fn other_files_are_named() {
    let refused = |bytes: &'static [u8]| ENGINE.load(bytes.into(), "p").unwrap_err().to_string();
    assert!(refused(b"").ends_with("the file is empty"));
    assert!(refused(b"\x7fELF....").contains("native program"));
    assert!(refused(b" (component)").contains("wasm-tools parse"));
    assert!(refused(b"hello, world").contains("\"hello, world\""));
    let broken = refused(b"\0asm\x0d\0\x01\0garbage");
    assert!(
        broken.starts_with("p is not a valid component: "),
        "{broken}"
    );
}

#[test]
fn nothing_to_run_is_an_error() {
    let refused = refusal("(component)");
    assert!(
        refused.contains("exports neither `millstream:plugin/consumer@0.1.0` nor"),
        "{refused}"
    );
    assert!(refused.contains("it exports nothing"), "{refused}");
}

#[test]
fn commands_and_other_versions_are_recognised() {
    let export = |name: &str| {
        refusal(&format!(
            "(component (instance $i) (export \"{name}\" (instance $i)))"
        ))
    };
    assert!(export("wasi:cli/run@0.2.6").contains("it is a command with a `main`"));
    assert!(export("wasi:http/incoming-handler@0.2.6").contains("it is an HTTP handler"));
    let other = export("millstream:plugin/consumer@0.2.0");
    assert!(
        other.contains(
            "exports `millstream:plugin/consumer@0.2.0`: this Millstream has version 0.1.0"
        ),
        "{other}"
    );
    assert!(!other.contains("exports neither"), "{other}");
}

#[test]
fn an_export_of_another_type_is_named() {
    let refused = refusal(
        r#"(component
          (core module $m (func (export "f") (param i32) (result i32) unreachable))
          (core instance $m (instantiate $m))
          (func $f (param "batch" u32) (result u32) (canon lift (core func $m "f")))
          (instance $i (export "process" (func $f)))
          (export "millstream:plugin/consumer@0.1.0" (instance $i))
          (instance $empty)
          (export "millstream:plugin/lifecycle@0.1.0" (instance $empty)))"#,
    );
    assert!(
        refused.contains("`millstream:plugin/consumer@0.1.0` with a different `process`"),
        "{refused}"
    );
    assert!(
        refused.contains("`millstream:plugin/lifecycle@0.1.0` without its function `open`"),
        "{refused}"
    );
}

fn importing(interface: &'static str) -> Result<Plugin, Error> {
    let guest = Guest::passthrough().import(interface, "f", "", "");
    ENGINE.load(guest.build(), "p.wasm")
}

#[test]
fn every_unknown_import_is_listed() {
    let guest = Guest::passthrough()
        .import("acme:billing/api@1.0.0", "a", "", "")
        .import("wasi:keyvalue/store@0.2.0-draft", "b", "", "")
        .import("millstream:plugin/timers@0.1.0", "c", "", "")
        .import("millstream:plugin/state@0.9.0", "d", "", "");
    let refused = ENGINE
        .load(guest.build(), "p.wasm")
        .unwrap_err()
        .to_string();
    assert_eq!(refused.lines().count(), 5, "{refused}");
    assert!(refused.contains("imports `acme:billing/api@1.0.0`: Millstream does not provide it"));
    assert!(
        refused.contains("imports `wasi:keyvalue/store@0.2.0-draft`: Millstream provides WASI 0.2")
    );
    assert!(refused.contains("imports `millstream:plugin/timers@0.1.0`: no version"));
    assert!(
        refused
            .contains("imports `millstream:plugin/state@0.9.0`: this Millstream has version 0.1.0")
    );
}

#[test]
fn sockets_and_http_are_never_granted() {
    let sockets = importing("wasi:sockets/tcp@0.2.6").unwrap_err().to_string();
    assert!(
        sockets.contains("`wasi:sockets/tcp@0.2.6`: plugins get no sockets"),
        "{sockets}"
    );
    let guest = Guest::passthrough()
        .import("wasi:sockets/tcp@0.2.6", "a", "", "")
        .import("wasi:sockets/udp@0.2.6", "b", "", "");
    let both = ENGINE
        .load(guest.build(), "p.wasm")
        .unwrap_err()
        .to_string();
    assert!(
        both.contains("`wasi:sockets/tcp@0.2.6`, `wasi:sockets/udp@0.2.6`: plugins get"),
        "{both}"
    );
    let http = importing("wasi:http/outgoing-handler@0.2.6")
        .unwrap_err()
        .to_string();
    assert!(http.contains("allow = { http = [\"host\"] }"), "{http}");
}

#[test]
fn a_function_that_an_interface_lacks_is_refused() {
    let refused = importing("millstream:plugin/metrics@0.1.0")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("imports differ from those of the plugin interface"),
        "{refused}"
    );
    assert!(
        refused.contains("millstream:plugin/metrics@0.1.0"),
        "{refused}"
    );
}

#[test]
fn types_alone_need_no_grant() {
    // As `wasi:filesystem` drags them in.
    let guest = Guest::passthrough().extra(
        r#"(import "wasi:clocks/wall-clock@0.2.6" (instance
             (type $t (record (field "seconds" u64) (field "nanoseconds" u32)))
             (export "datetime" (type (eq $t)))))"#,
    );
    load(&guest).check_grants(&Grants::default()).unwrap();
}

#[test]
fn state_can_be_withheld() {
    let guest = Guest::passthrough().import(
        "millstream:plugin/state@0.1.0",
        "delete",
        r#"(param "key" (list u8))"#,
        "(param i32 i32)",
    );
    let plugin = load(&guest);
    plugin.check_grants(&Grants::default()).unwrap();
    let none = Grants {
        state: false,
        ..Grants::default()
    };
    assert!(
        plugin
            .check_grants(&none)
            .unwrap_err()
            .to_string()
            .contains("no state")
    );
}

#[test]
fn a_plugin_tells_what_it_is() {
    let plugin = load(&Guest::passthrough());
    assert!(plugin.is_consumer() && !plugin.is_producer() && !plugin.has_lifecycle());
    assert_eq!(plugin.name(), "test.wasm");
    assert_eq!(plugin.digest(), &Digest::of(&Guest::passthrough().build()));
    assert!(load(&Guest::passthrough().open("unreachable")).has_lifecycle());
}
