//! The components of every plugin in `plugins/`, built once per content.
//!
//! They lie in `<cache>/components/<hash>/`, where the hash covers the sources (`wit/`, `sdk/`,
//! `plugins/`) and the toolchain, and are copied to where a manifest looks for the component of a
//! plugin project: `<project>/target/wasm32-wasip2/release/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::guest::{Detected, Toolchain};
use super::{State, Step};
use crate::cargo;
use crate::context::Context;
use crate::plugin;

/// Lists what a folder of components holds; written last, so a folder without it is not whole.
const INDEX: &str = "index.txt";
/// Folders of components that are kept, the newest first: a few, for switching between branches.
const KEPT_FOLDERS: usize = 8;
/// Bump when the way of building changes in a manner that no source shows.
const RECIPE: &str = "1";

/// The set-up step.
pub struct Plugins;

impl Step for Plugins {
    fn name(&self) -> &'static str {
        "plugins"
    }

    fn state(&self, context: &Context) -> Result<State> {
        let missing = |what: String| {
            Ok(State::Missing {
                what,
                command: "cargo xtask build-plugins".to_owned(),
            })
        };
        let toolchain = match Toolchain::detect(context)? {
            Detected::Found(toolchain) => toolchain,
            Detected::Absent(why) => return missing(why),
        };
        let folder = components_dir(context, &toolchain)?;
        let Some(index) = Index::read(&folder)? else {
            return missing("not built from these sources yet".to_owned());
        };
        for entry in &index.0 {
            if !entry.is_in_place(context, &folder) {
                return missing(format!(
                    "{} is not in place",
                    entry.project_component(context).display()
                ));
            }
        }
        Ok(State::Ready(format!(
            "{} components in {}",
            index.0.len(),
            folder.display()
        )))
    }

    fn bring(&self, context: &Context) -> Result<()> {
        let toolchain = Toolchain::require(context)?;
        let folder = components_dir(context, &toolchain)?;
        let index = match Index::read(&folder)? {
            Some(index) => index,
            None => build_into(context, &toolchain, &folder)?,
        };
        for entry in &index.0 {
            entry.put_in_place(context, &folder)?;
        }
        prune(&components_root(context), &folder)
    }
}

/// The folder with the components of today's sources; it is there after set-up.
pub fn built_components(context: &Context) -> Result<PathBuf> {
    components_dir(context, &Toolchain::require(context)?)
}

fn components_root(context: &Context) -> PathBuf {
    context.cache.join("components")
}

fn components_dir(context: &Context, toolchain: &Toolchain) -> Result<PathBuf> {
    Ok(components_root(context).join(source_hash(&context.root, &toolchain.identity())?))
}

/// Builds every plugin of the workspace and lays the components into `folder`.
fn build_into(context: &Context, toolchain: &Toolchain, folder: &Path) -> Result<Index> {
    let manifest = context.root.join("plugins/Cargo.toml");
    let packages: Vec<_> = cargo::packages(context, &manifest)?
        .into_iter()
        .filter(|package| package.is_cdylib)
        .collect();
    if packages.is_empty() {
        bail!(
            "{} has no member with crate-type = [\"cdylib\"]",
            manifest.display()
        );
    }
    let built = plugin::build_shared(context, toolchain, &manifest, &packages)?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut entries = Vec::new();
    for (package, component) in packages.iter().zip(built) {
        let entry = Entry {
            file: package.component_file(),
            project: relative(context, &package.dir)?,
        };
        plugin::copy_if_changed(&component, &folder.join(&entry.file))?;
        entries.push(entry);
    }
    let index = Index(entries);
    index.write(folder)?;
    Ok(index)
}

fn relative(context: &Context, dir: &Path) -> Result<PathBuf> {
    let path = dir.strip_prefix(&context.root);
    Ok(path
        .with_context(|| format!("{} lies outside the repository", dir.display()))?
        .to_owned())
}

/// One component: its file name and its project's folder below the repository's root.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    file: String,
    project: PathBuf,
}

impl Entry {
    fn project_component(&self, context: &Context) -> PathBuf {
        plugin::project_component(&context.root.join(&self.project), &self.file)
    }

    fn is_in_place(&self, context: &Context, folder: &Path) -> bool {
        let read = |path: PathBuf| fs::read(path).ok();
        let built = read(folder.join(&self.file));
        built.is_some() && built == read(self.project_component(context))
    }

    fn put_in_place(&self, context: &Context, folder: &Path) -> Result<()> {
        plugin::copy_if_changed(&folder.join(&self.file), &self.project_component(context))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Index(Vec<Entry>);

impl Index {
    /// `None` when the folder is not there or not whole.
    fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(INDEX);
        if !path.is_file() {
            return Ok(None);
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let entry = |line: &str| {
            let (file, project) = line.split_once('\t')?;
            Some(Entry {
                file: file.to_owned(),
                project: PathBuf::from(project),
            })
        };
        let entries: Option<Vec<_>> = text.lines().map(entry).collect();
        // A damaged index is as good as none: the folder is built again.
        Ok(entries
            .filter(|entries| {
                entries
                    .iter()
                    .all(|entry| folder.join(&entry.file).is_file())
            })
            .map(Self))
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let lines: String = self
            .0
            .iter()
            .map(|entry| format!("{}\t{}\n", entry.file, entry.project.display()))
            .collect();
        let path = folder.join(INDEX);
        fs::write(&path, lines).with_context(|| format!("writing {}", path.display()))
    }
}

/// Removes the oldest folders of components, never `current`.
fn prune(root: &Path, current: &Path) -> Result<()> {
    let mut folders: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("reading {}", root.display()))? {
        let entry = entry?;
        if entry.path() != current {
            folders.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    folders.sort();
    let surplus = folders.len().saturating_sub(KEPT_FOLDERS - 1);
    for (_, folder) in folders.into_iter().take(surplus) {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

/// A hash over every file that can change a component, as 32 hex digits.
fn source_hash(root: &Path, toolchain: &str) -> Result<String> {
    let mut files = Vec::new();
    for folder in ["wit", "sdk", "plugins"] {
        let folder = root.join(folder);
        if !folder.is_dir() {
            bail!("{} is not there", folder.display());
        }
        collect(&folder, &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(RECIPE.as_bytes());
    field(toolchain.as_bytes());
    for path in &files {
        let name = path.strip_prefix(root).unwrap_or(path);
        field(name.as_os_str().as_encoded_bytes());
        field(&fs::read(path).with_context(|| format!("reading {}", path.display()))?);
    }
    Ok(hash
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Every source file below `folder`: what builds leave (`target`) and hidden files are none, but
/// cargo's configuration is.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.') && name != ".cargo";
        let kind = entry.file_type()?;
        if hidden || (kind.is_dir() && name == "target") {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_hash_follows_sources_and_toolchain_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        write(root, "wit/plugin.wit", "a");
        write(root, "sdk/rust/src/lib.rs", "b");
        write(root, "plugins/p/src/lib.rs", "c");
        let first = source_hash(root, "rustc 1").unwrap();
        assert_eq!(first.len(), 32);
        write(
            root,
            "plugins/p/target/wasm32-wasip2/release/p.wasm",
            "built",
        );
        write(root, "plugins/p/.lib.rs.swp", "an editor's");
        write(root, "runtime/src/lib.rs", "no guest");
        assert_eq!(source_hash(root, "rustc 1").unwrap(), first);
        assert_ne!(source_hash(root, "rustc 2").unwrap(), first);
        write(root, "plugins/p/src/lib.rs", "d");
        assert_ne!(source_hash(root, "rustc 1").unwrap(), first);
        write(root, "plugins/p/src/lib.rs", "c");
        write(root, "plugins/.cargo/config.toml", "flags");
        assert_ne!(source_hash(root, "rustc 1").unwrap(), first);
    }

    #[test]
    fn a_folder_is_whole_only_with_its_index_and_all_it_lists() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        assert_eq!(Index::read(folder).unwrap(), None);
        let index = Index(vec![Entry {
            file: "p.wasm".to_owned(),
            project: PathBuf::from("plugins/p"),
        }]);
        index.write(folder).unwrap();
        assert_eq!(
            Index::read(folder).unwrap(),
            None,
            "the component is not there"
        );
        write(folder, "p.wasm", "component");
        assert_eq!(Index::read(folder).unwrap(), Some(index));
    }

    #[test]
    fn old_folders_go_and_the_current_one_stays() {
        let temp = tempfile::tempdir().unwrap();
        for i in 0..12 {
            fs::create_dir(temp.path().join(format!("{i}"))).unwrap();
        }
        let current = temp.path().join("0");
        prune(temp.path(), &current).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), KEPT_FOLDERS);
        assert!(current.is_dir());
    }
}
