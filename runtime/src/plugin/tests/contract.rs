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
        .import("millstream:plugin/clock@0.1.0", "c", "", "")
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
    assert!(refused.contains("imports `millstream:plugin/clock@0.1.0`: no version"));
    assert!(
        refused
            .contains("imports `millstream:plugin/state@0.9.0`: this Millstream has version 0.1.0")
    );
}

#[test]
fn sockets_and_servers_are_never_granted() {
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
    let server = importing("wasi:http/incoming-handler@0.2.6")
        .unwrap_err()
        .to_string();
    assert!(
        server.contains("`wasi:http/incoming-handler@0.2.6`: a plugin passes no request on"),
        "{server}"
    );
}

/// Imports `outgoing-handler` of a version older than the host's, with every type it needs.
const OUTGOING_HANDLER: &str = r#"
(import "wasi:http/types@0.2.0" (instance $http
  (export "outgoing-request" (type (sub resource)))
  (export "request-options" (type (sub resource)))
  (export "future-incoming-response" (type (sub resource)))
  (type $dns' (record (field "rcode" (option string)) (field "info-code" (option u16))))
  (export "DNS-error-payload" (type $dns (eq $dns')))
  (type $alert' (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
  (export "TLS-alert-received-payload" (type $alert (eq $alert')))
  (type $size' (record (field "field-name" (option string)) (field "field-size" (option u32))))
  (export "field-size-payload" (type $size (eq $size')))
  (type $code' (variant
    (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found")
    (case "destination-unavailable") (case "destination-IP-prohibited")
    (case "destination-IP-unroutable") (case "connection-refused") (case "connection-terminated")
    (case "connection-timeout") (case "connection-read-timeout") (case "connection-write-timeout")
    (case "connection-limit-reached") (case "TLS-protocol-error") (case "TLS-certificate-error")
    (case "TLS-alert-received" $alert) (case "HTTP-request-denied")
    (case "HTTP-request-length-required") (case "HTTP-request-body-size" (option u64))
    (case "HTTP-request-method-invalid") (case "HTTP-request-URI-invalid")
    (case "HTTP-request-URI-too-long") (case "HTTP-request-header-section-size" (option u32))
    (case "HTTP-request-header-size" (option $size))
    (case "HTTP-request-trailer-section-size" (option u32)) (case "HTTP-request-trailer-size" $size)
    (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
    (case "HTTP-response-header-size" $size) (case "HTTP-response-body-size" (option u64))
    (case "HTTP-response-trailer-section-size" (option u32))
    (case "HTTP-response-trailer-size" $size) (case "HTTP-response-transfer-coding" (option string))
    (case "HTTP-response-content-coding" (option string)) (case "HTTP-response-timeout")
    (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected")
    (case "configuration-error") (case "internal-error" (option string))))
  (export "error-code" (type (eq $code')))))
(alias export $http "outgoing-request" (type $request))
(alias export $http "request-options" (type $options))
(alias export $http "future-incoming-response" (type $response))
(alias export $http "error-code" (type $code))
(import "wasi:http/outgoing-handler@0.2.0" (instance
  (export "outgoing-request" (type $request' (eq $request)))
  (export "request-options" (type $options' (eq $options)))
  (export "future-incoming-response" (type $response' (eq $response)))
  (export "error-code" (type $code'' (eq $code)))
  (export "handle" (func
    (param "request" (own $request')) (param "options" (option (own $options')))
    (result (result (own $response') (error $code'')))))))
"#;

#[test]
fn calling_services_needs_the_hosts() {
    let plugin = load(&Guest::passthrough().extra(OUTGOING_HANDLER));
    let refused = plugin.check_grants(&Grants::default()).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains(
            "imports what it is not granted: `wasi:http/outgoing-handler@0.2.0` (handle): add the \
             hosts that it calls to the pipeline, such as `allow = { http = [\"api.example.com\"] }`"
        ),
        "{refused}"
    );
    let granted = Grants {
        http: Some(["api.example.com".parse().unwrap()].into()),
        ..Grants::default()
    };
    plugin.check_grants(&granted).unwrap();
    assert!(plugin.calls_services());
}

#[test]
fn the_types_of_http_alone_need_no_grant() {
    let types = OUTGOING_HANDLER
        .split_once("(import \"wasi:http/outgoing-handler")
        .unwrap()
        .0;
    load(&Guest::passthrough().extra(types))
        .check_grants(&Grants::default())
        .unwrap();
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
fn who_sets_timers_handles_them() {
    let setter = || {
        Guest::passthrough().import(
            "millstream:plugin/timers@0.1.0",
            "cancel",
            r#"(param "key" (list u8)) (param "due-ms" u64)"#,
            "(param i32 i32 i64)",
        )
    };
    let refused = ENGINE
        .load(setter().build(), "p.wasm")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(
            "imports `millstream:plugin/timers@0.1.0` (cancel) without exporting \
             `millstream:plugin/timer-handler@0.1.0`: "
        ),
        "{refused}"
    );
    assert!(
        refused.contains("consumer!(process, on_timer)"),
        "{refused}"
    );
    let plugin = load(&setter().on_timers("unreachable"));
    assert!(plugin.handles_timers());
    plugin.check_grants(&Grants::default()).unwrap();
    let none = Grants {
        timers: false,
        ..Grants::default()
    };
    let denied = plugin.check_grants(&none).unwrap_err().to_string();
    assert!(
        denied.contains("a pipeline without a `from` has no timers"),
        "{denied}"
    );
    // Who can be told of timers need not set any.
    assert!(load(&Guest::passthrough().on_timers("unreachable")).handles_timers());
    assert!(!load(&Guest::passthrough()).handles_timers());
}

#[test]
fn a_plugin_tells_what_it_is() {
    let plugin = load(&Guest::passthrough());
    assert!(plugin.is_consumer() && !plugin.is_producer() && !plugin.has_lifecycle());
    assert_eq!(plugin.name(), "test.wasm");
    assert_eq!(plugin.digest(), &Digest::of(&Guest::passthrough().build()));
    assert!(load(&Guest::passthrough().open("unreachable")).has_lifecycle());
}
