//! What cargo tells about packages and builds, read from its JSON output.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::context::Context;
use crate::process::Cmd;

/// One package of a workspace, from `cargo metadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name in `Cargo.toml`.
    pub name: String,
    /// Cargo's opaque id, which build messages repeat.
    pub id: String,
    /// The folder of its `Cargo.toml`.
    pub dir: PathBuf,
    /// Does it build a C-like dynamic library, the crate type of every plugin?
    pub is_cdylib: bool,
}

impl Package {
    /// The name of its component: `<package name with - replaced by _>.wasm`.
    pub fn component_file(&self) -> String {
        format!("{}.wasm", self.name.replace('-', "_"))
    }
}

/// The packages of the workspace that `manifest` (a `Cargo.toml`) belongs to.
pub fn packages(context: &Context, manifest: &Path) -> Result<Vec<Package>> {
    let mut cmd = Cmd::new(&context.cargo);
    cmd.args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--manifest-path",
    ])
    .arg(manifest);
    let text = cmd.output()?;
    parse_packages(&text).with_context(|| format!("reading the output of `{cmd}`"))
}

fn parse_packages(text: &str) -> Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(text)?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or_else(|| anyhow!("no field `packages`"))?;
    packages.iter().map(parse_package).collect()
}

fn parse_package(package: &Value) -> Result<Package> {
    let field = |name: &str| {
        package[name]
            .as_str()
            .ok_or_else(|| anyhow!("a package without `{name}`"))
    };
    let manifest = Path::new(field("manifest_path")?);
    let dir = manifest
        .parent()
        .ok_or_else(|| anyhow!("{} has no folder", manifest.display()))?;
    let targets = package["targets"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    Ok(Package {
        name: field("name")?.to_owned(),
        id: field("id")?.to_owned(),
        dir: dir.to_owned(),
        is_cdylib: targets.iter().any(|target| has_kind(target, "cdylib")),
    })
}

fn has_kind(target: &Value, kind: &str) -> bool {
    target["kind"]
        .as_array()
        .is_some_and(|kinds| kinds.iter().any(|k| k == kind))
}

/// The messages of one `cargo build --message-format=json-render-diagnostics`.
pub struct BuildMessages(Vec<Value>);

impl BuildMessages {
    /// Adds the flag to a `cargo build` and runs it; diagnostics are shown as they come.
    pub fn of(mut build: Cmd) -> Result<Self> {
        build.arg("--message-format=json-render-diagnostics");
        let text = build.output()?;
        Self::parse(&text).with_context(|| format!("reading the output of `{build}`"))
    }

    fn parse(text: &str) -> Result<Self> {
        let messages = text
            .lines()
            // A build script may print through to here; only cargo's own lines are objects.
            .filter(|line| line.starts_with('{'))
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        Ok(Self(messages))
    }

    /// The `OUT_DIR` of the build script of package `name`.
    pub fn out_dir(&self, name: &str) -> Option<PathBuf> {
        let is_it = |message: &&Value| {
            message["reason"] == "build-script-executed"
                && message["package_id"]
                    .as_str()
                    .is_some_and(|id| id_has_name(id, name))
        };
        self.0.iter().find(is_it)?["out_dir"]
            .as_str()
            .map(PathBuf::from)
    }

    /// The executable `name` that the build made; not that of its tests.
    pub fn executable(&self, name: &str) -> Option<PathBuf> {
        self.artifacts()
            .filter(|message| {
                message["target"]["name"] == name && message["profile"]["test"] != true
            })
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
    }

    /// The component that the build made for the package with this id.
    pub fn component(&self, package_id: &str) -> Option<PathBuf> {
        self.artifacts()
            .filter(|message| {
                message["package_id"] == package_id && has_kind(&message["target"], "cdylib")
            })
            .flat_map(|message| {
                message["filenames"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default()
            })
            .filter_map(Value::as_str)
            .find(|name| name.ends_with(".wasm"))
            .map(PathBuf::from)
    }

    fn artifacts(&self) -> impl Iterator<Item = &Value> {
        self.0
            .iter()
            .filter(|message| message["reason"] == "compiler-artifact")
    }
}

/// Package ids look like `registry+https://…#name@1.2.3` or `path+file:///dir/name#1.2.3`.
fn id_has_name(id: &str, name: &str) -> bool {
    let Some((source, fragment)) = id.rsplit_once('#') else {
        return false;
    };
    match fragment.split_once('@') {
        Some((fragment_name, _)) => fragment_name == name,
        None => source.rsplit('/').next() == Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_from_metadata() {
        let text = r#"{"packages": [
            {"name": "carrier-delays", "id": "path+file:///r/plugins/carrier-delays#0.1.0",
             "manifest_path": "/r/plugins/carrier-delays/Cargo.toml",
             "targets": [{"kind": ["cdylib"], "name": "carrier_delays"}]},
            {"name": "shared", "id": "path+file:///r/plugins/shared#0.1.0",
             "manifest_path": "/r/plugins/shared/Cargo.toml",
             "targets": [{"kind": ["lib"], "name": "shared"}]}]}"#;
        let packages = parse_packages(text).unwrap();
        assert_eq!(packages[0].component_file(), "carrier_delays.wasm");
        assert_eq!(packages[0].dir, Path::new("/r/plugins/carrier-delays"));
        assert!(packages[0].is_cdylib);
        assert!(!packages[1].is_cdylib);
        assert!(parse_packages("{}").is_err());
    }

    #[test]
    fn build_messages_name_what_was_built() {
        let text = concat!(
            r#"{"reason":"build-script-executed","package_id":"registry+https://x#librocksdb-sys@0.19.0+11.8.1","out_dir":"/t/out"}"#,
            "\nnoise\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///r/runtime#millstream@0.1.0","target":{"kind":["bin"],"name":"millstream"},"filenames":[],"executable":"/t/release/millstream"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"P","target":{"kind":["cdylib","rlib"],"name":"p"},"filenames":["/t/p.rlib","/t/p.wasm"],"executable":null}"#,
        );
        let messages = BuildMessages::parse(text).unwrap();
        assert_eq!(
            messages.out_dir("librocksdb-sys").unwrap(),
            Path::new("/t/out")
        );
        assert_eq!(
            messages.executable("millstream").unwrap(),
            Path::new("/t/release/millstream")
        );
        assert_eq!(messages.component("P").unwrap(), Path::new("/t/p.wasm"));
        assert!(messages.component("Q").is_none());
    }

    #[test]
    fn both_forms_of_package_ids_are_known() {
        assert!(id_has_name("path+file:///r/runtime#0.1.0", "runtime"));
        assert!(id_has_name(
            "path+file:///r/runtime#millstream@0.1.0",
            "millstream"
        ));
        assert!(!id_has_name("registry+https://x#serde@1.0.0", "serde_json"));
    }
}
