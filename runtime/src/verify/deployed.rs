//! What was deployed to a server: the entries of plugins, manifests, deploys and tokens, and the components.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::Counts;
use super::place::hexadecimal;
use super::problem::{Problem, ProblemKind};
use crate::storage::schema::{KeyKind, deploy, manifest, plugin, token};

/// What counts here of a plugin's entry.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PluginEntry {
    current: String,
    versions: Vec<VersionEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct VersionEntry {
    digest: String,
}

/// Whether an entry is about something that was deployed, or gives access.
pub(super) fn is_about(kind: u8) -> bool {
    let kinds = [
        KeyKind::Plugin,
        KeyKind::Manifest,
        KeyKind::Deploy,
        KeyKind::Token,
    ];
    kinds.iter().any(|known| *known as u8 == kind)
}

/// Looks at such an entry. The components that it names are looked for in a folder, if there is one.
pub(super) fn look_at(
    key: &[u8],
    value: &[u8],
    components: Option<&Path>,
    counts: &mut Counts,
) -> Result<(), Box<Problem>> {
    if let Some(name) = plugin::parse_key(key) {
        counts.plugins += 1;
        let entry: PluginEntry = read("plugin", name, value)?;
        let mut digests = entry.versions.iter().map(|version| &version.digest);
        if !digests.clone().any(|digest| *digest == entry.current) {
            let current = &entry.current;
            let reason = format!(
                "the current version of plugin {name} is {current}, which is none of its versions"
            );
            return Err(Problem::new(ProblemKind::Entry, reason));
        }
        return match components {
            Some(folder) => {
                counts.components += entry.versions.len() as u64;
                digests.try_for_each(|digest| look_at_component(name, digest, folder))
            }
            None => Ok(()),
        };
    }
    let (what, name) = if let Some(name) = manifest::parse_key(key) {
        counts.manifests += 1;
        ("manifest", name.to_owned())
    } else if let Some(id) = deploy::parse_key(key) {
        counts.deploys += 1;
        ("deploy", id.to_string())
    } else if let Some(name) = token::parse_key(key) {
        counts.tokens += 1;
        ("token", name.to_owned())
    } else {
        let reason = "the key is of no known form";
        return Err(Problem::new(ProblemKind::Key, reason));
    };
    read::<Map<String, Value>>(what, &name, value).map(drop)
}

fn read<'a, T: Deserialize<'a>>(
    what: &str,
    name: &str,
    value: &'a [u8],
) -> Result<T, Box<Problem>> {
    serde_json::from_slice(value).map_err(|error| {
        let reason = format!("the entry of {what} {name} is malformed: {error}");
        Problem::new(ProblemKind::Entry, reason)
    })
}

/// The file is there, and is what its name says.
fn look_at_component(plugin: &str, digest: &str, folder: &Path) -> Result<(), Box<Problem>> {
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        let reason = format!("a version of plugin {plugin} has the digest {digest}, which is none");
        return Err(Problem::new(ProblemKind::Entry, reason));
    }
    let path = folder.join(format!("{digest}.wasm"));
    let wrong = |reason: String| {
        let reason = format!(
            "the component of plugin {plugin}, {}, {reason}",
            path.display()
        );
        Problem::new(ProblemKind::Component, reason)
    };
    let wasm = fs::read(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    match hexadecimal(&Sha256::digest(&wasm)) == digest {
        true => Ok(()),
        false => Err(wrong("is not what was uploaded".to_owned())),
    }
}
