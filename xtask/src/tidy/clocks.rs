//! Time below the pipeline comes from `clock.rs`, so that tests can turn it.

use super::Finding;
use super::source::Source;

const MODULES: &[&str] = &["log", "queue", "group", "storage"];
const CALLS: &[&str] = &["SystemTime::now", "Instant::now"];

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    if !source
        .runtime_module()
        .is_some_and(|(module, _)| MODULES.contains(&module))
    {
        return;
    }
    for call in CALLS {
        for (at, _) in source.code.match_indices(call) {
            // A test may wait for a thread in real time.
            if !source.is_test(at) {
                findings.push(Finding {
                    path: source.path.clone(),
                    line: source.line(at),
                    rule: "clock",
                    message: format!("`{call}` here; take the time from clock.rs"),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    #[test]
    fn a_hidden_clock_is_found() {
        let text = "fn f() { std::time::Instant::now(); }\nfn g() { SystemTime::now(); }\n";
        assert_eq!(messages(check, "runtime/src/queue/lease.rs", text).len(), 2);
        assert!(messages(check, "runtime/src/pipeline/task.rs", text).is_empty());
        let test = "#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }";
        assert!(messages(check, "runtime/src/queue/lease.rs", test).is_empty());
    }
}
