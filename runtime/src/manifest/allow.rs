//! Reads a pipeline's `allow`: what its plugin is granted beyond what every plugin has.

use std::fmt;

use toml::de::DeValue;

use super::error::Report;
use super::read::{Table, Value};
use super::words::{Text, describe, quoted};
use crate::model::{HttpHostPattern, InvalidHttpHost};

/// The most hosts of one `http`.
const MAX_HTTP_HOSTS: usize = 64;

/// What a plugin is granted beyond what every plugin has. Denied unless granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// `wasi:clocks`.
    pub clocks: bool,
    /// `wasi:random`.
    pub random: bool,
    /// The hosts that `wasi:http` may call; none: no `wasi:http` at all.
    pub http: Vec<HttpHostPattern>,
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self
            .http
            .iter()
            .map(|host| Text(&host.to_string()).to_string());
        let hosts = hosts.collect::<Vec<_>>().join(", ");
        let Self { clocks, random, .. } = self;
        write!(
            f,
            "{{ clocks = {clocks}, random = {random}, http = [{hosts}] }}"
        )
    }
}

/// Reads the table.
pub(super) fn read(allow: &Table<'_>, report: &mut Report<'_>) -> Allow {
    Allow {
        clocks: allow.boolean("clocks", report),
        random: allow.boolean("random", report),
        http: hosts(allow, report),
    }
}

/// `http`: a list of hosts.
fn hosts(allow: &Table<'_>, report: &mut Report<'_>) -> Vec<HttpHostPattern> {
    let Some(value) = allow.value("http") else {
        return Vec::new();
    };
    let mut hosts: Vec<HttpHostPattern> = Vec::new();
    match value.get_ref() {
        DeValue::Array(entries) if entries.len() <= MAX_HTTP_HOSTS => {
            for entry in entries.iter() {
                let Some(host) = host(entry, report) else {
                    continue;
                };
                if hosts.contains(&host) {
                    let message = format!("`http` names `{host}` twice");
                    report.error(entry.span(), message, "remove one of the two");
                } else {
                    hosts.push(host);
                }
            }
        }
        _ => {
            let expected = format!("a list of at most {MAX_HTTP_HOSTS} hosts");
            let help = "for example `http = [\"api.example.com\", \"localhost:8080\"]`";
            allow.wrong("http", value, &expected, help, report);
        }
    }
    hosts
}

/// One entry of `http`.
fn host(value: Value<'_>, report: &mut Report<'_>) -> Option<HttpHostPattern> {
    const EXPECTED: &str = "every entry of `http` must be a host such as \"api.example.com\", \
                            \"localhost:8080\" or \"*.example.com\"";
    let Some(text) = value.get_ref().as_str() else {
        let message = format!("{EXPECTED}, found {}", describe(value));
        report.error(value.span(), message, "write the host in quotes");
        return None;
    };
    match text.parse::<HttpHostPattern>() {
        Ok(host) => Some(host),
        Err(reason) => {
            let help = mended(text, reason).map_or_else(
                || reason.to_string(),
                |host| format!("{reason}: {}", quoted(&host.to_string())),
            );
            let message = format!("{EXPECTED}, found {}", describe(value));
            report.error(value.span(), message, help);
            None
        }
    }
}

/// What the author of a URL most likely means.
fn mended(text: &str, reason: InvalidHttpHost) -> Option<HttpHostPattern> {
    if reason != InvalidHttpHost::Url {
        return None;
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next()?.parse().ok()
}
