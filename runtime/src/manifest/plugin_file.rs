//! Finds the component a plugin's `path` stands for: a `.wasm` file itself, or the one that a plugin
//! project (a folder with a `Cargo.toml`) is built to.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::words::quoted;
use crate::model::suggest;

/// The target plugins are built for.
const TARGET: &str = "wasm32-wasip2";
/// The largest `Cargo.toml` that is read, in bytes.
const MAX_CARGO_TOML_BYTES: u64 = 1 << 20;
/// How many names in a folder are looked at for a similar one.
const MAX_SUGGESTION_ENTRIES: usize = 1_000;

/// Why there is no component: what was found instead, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) message: String,
    pub(super) help: String,
}

impl Missing {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

/// Finds the component. `written` is the path in the manifest, relative to `folder`, the manifest's.
pub(super) fn find(folder: &Path, written: &str) -> Result<PathBuf, Missing> {
    let path = folder.join(written);
    if path.is_dir() {
        return built_by_project(&path, written);
    }
    let is_wasm = path
        .extension()
        .is_some_and(|extension| extension == "wasm");
    if path.is_file() {
        if is_wasm {
            return Ok(path);
        }
        return Err(Missing::new(
            format!(
                "`path` must be a .wasm file or a plugin project, found the file {}",
                quoted(written)
            ),
            if path.ends_with("Cargo.toml") {
                "name the folder it is in"
            } else {
                "a plugin project is a folder with a Cargo.toml"
            },
        ));
    }
    if let Some(project) = project_of(&path) {
        return Err(not_built(&project, written));
    }
    let help = match similar_entry(&path) {
        Some(entry) => format!(
            "did you mean {}?",
            quoted(&Path::new(written).with_file_name(entry).to_string_lossy())
        ),
        None => "`path` is relative to the manifest's folder; it names a .wasm file or a plugin \
                 project"
            .to_owned(),
    };
    Err(Missing::new(
        format!(
            "`path` must be a .wasm file or a plugin project, found nothing at {}",
            quoted(&path.to_string_lossy())
        ),
        help,
    ))
}

/// The component of a project, which has to be built already.
fn built_by_project(project: &Path, written: &str) -> Result<PathBuf, Missing> {
    let cargo_toml = project.join("Cargo.toml");
    if !cargo_toml.is_file() {
        return Err(Missing::new(
            format!(
                "`path` must be a .wasm file or a plugin project, found the folder {} without a \
                 Cargo.toml",
                quoted(written)
            ),
            "name the project's own folder, or the .wasm file it is built to",
        ));
    }
    let component_name = component_name(&cargo_toml).map_err(|reason| {
        Missing::new(
            format!(
                "`path` must be a plugin project, but {} {reason}",
                quoted(&cargo_toml.to_string_lossy())
            ),
            "a plugin project is a library crate: its Cargo.toml has a `[package]` with a `name`",
        )
    })?;
    let wasm = project
        .join("target")
        .join(TARGET)
        .join("release")
        .join(format!("{component_name}.wasm"));
    if wasm.is_file() {
        Ok(wasm)
    } else {
        Err(not_built(project, written))
    }
}

fn not_built(project: &Path, written: &str) -> Missing {
    // The command runs in another folder than the one that a relative path is of.
    let whole = project
        .canonicalize()
        .unwrap_or_else(|_| project.to_owned());
    Missing::new(
        format!("the plugin project of {} is not built", quoted(written)),
        format!(
            "run `cargo xtask build-plugin {}` in the Millstream checkout",
            whole.display()
        ),
    )
}

/// The name of the project's component without its extension: the package's, with `_` for `-`.
fn component_name(cargo_toml: &Path) -> Result<String, String> {
    let mut text = String::new();
    fs::File::open(cargo_toml)
        .and_then(|file| file.take(MAX_CARGO_TOML_BYTES).read_to_string(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    let manifest: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| format!("is not valid TOML: {}", error.message()))?;
    manifest
        .get("package")
        .and_then(|package| package.get("name")?.as_str())
        // The name becomes part of a path.
        .filter(|name| !name.is_empty() && !name.contains(['/', '\\']))
        .map(|name| name.replace('-', "_"))
        .ok_or_else(|| "has no `[package]` with a `name`".to_owned())
}

/// The project whose build output a missing path would be: `DIR/target/wasm32-wasip2/release/…`.
fn project_of(path: &Path) -> Option<PathBuf> {
    let profile = path.parent()?;
    let target = profile.parent()?;
    let project = target.parent()?.parent()?;
    let is_output = target.ends_with(Path::new("target").join(TARGET));
    (is_output && project.join("Cargo.toml").is_file()).then(|| project.to_owned())
}

/// A name in the same folder that the missing one may be a mistyped form of.
fn similar_entry(path: &Path) -> Option<String> {
    let folder = match path.parent()? {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let entries: Vec<_> = fs::read_dir(folder)
        .ok()?
        .take(MAX_SUGGESTION_ENTRIES)
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let fits =
                entry.path().is_dir() || entry.path().extension().is_some_and(|ext| ext == "wasm");
            fits.then(|| entry.file_name().into_string().ok()).flatten()
        })
        .collect();
    let wanted = path.file_name()?.to_str()?;
    suggest(wanted, entries.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_wasm_file_is_found_relative_to_the_manifest() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path().join("a/b.wasm"), "");
        assert_eq!(
            find(folder.path(), "a/b.wasm"),
            Ok(folder.path().join("a/b.wasm"))
        );
    }

    #[test]
    fn a_project_is_found_once_it_is_built() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("project");
        write(
            project.join("Cargo.toml"),
            "[package]\nname = \"my-plugin\"\n",
        );
        let help = find(folder.path(), "project").unwrap_err().help;
        assert!(help.contains("cargo xtask build-plugin"), "{help}");
        let wasm = project.join("target/wasm32-wasip2/release/my_plugin.wasm");
        write(wasm.clone(), "");
        assert_eq!(find(folder.path(), "project"), Ok(wasm));
    }

    #[test]
    fn what_is_not_built_names_the_command_and_where_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path().join("p/Cargo.toml"),
            "[package]\nname = \"p\"\n",
        );
        let project = folder.path().join("p").canonicalize().unwrap();
        let help = format!(
            "run `cargo xtask build-plugin {}` in the Millstream checkout",
            project.display()
        );
        for path in ["p", "p/../p/.", "p/target/wasm32-wasip2/release/p.wasm"] {
            assert_eq!(find(folder.path(), path).unwrap_err().help, help, "{path}");
        }
    }

    #[test]
    fn what_is_no_plugin_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path().join("empty/readme.md"), "");
        write(folder.path().join("broken/Cargo.toml"), "[package\n");
        write(folder.path().join("workspace/Cargo.toml"), "[workspace]\n");
        write(
            folder.path().join("escape/Cargo.toml"),
            "[package]\nname = \"../x\"\n",
        );
        for path in [
            "empty",
            "empty/readme.md",
            "broken",
            "broken/Cargo.toml",
            "workspace",
            "escape",
            "nowhere",
            "no/where",
        ] {
            assert!(find(folder.path(), path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_mistyped_path_is_suggested() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path().join("plugins/delays.wasm"), "");
        let missing = find(folder.path(), "plugins/delay.wasm").unwrap_err();
        assert_eq!(missing.help, "did you mean \"plugins/delays.wasm\"?");
    }
}
