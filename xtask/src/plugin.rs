//! Building plugin projects: one anywhere (`build-plugin DIR`), or all of the repository's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cargo::{self, BuildMessages, Package};
use crate::context::Context;
use crate::setup::guest::{TARGET, Toolchain};
use crate::shared_target::SharedTarget;

/// Where a manifest's `path = "<project>"` looks for the component `file`.
pub fn project_component(project: &Path, file: &str) -> PathBuf {
    project
        .join("target")
        .join(TARGET)
        .join("release")
        .join(file)
}

/// Builds the plugin project in `dir`, inside or outside the repository, and returns where the
/// component lies.
pub fn build(context: &Context, dir: &Path) -> Result<PathBuf> {
    let dir = fs::canonicalize(dir)
        .with_context(|| format!("opening the plugin folder {}", dir.display()))?;
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        bail!(
            "{} is not a plugin project: it has no Cargo.toml",
            dir.display()
        );
    }
    let packages = cargo::packages(context, &manifest)?;
    let Some(package) = packages.into_iter().find(|package| package.dir == dir) else {
        bail!(
            "{} is a workspace and no package; name the folder of one plugin",
            manifest.display()
        );
    };
    if !package.is_cdylib {
        bail!(
            "{} builds no component: add `[lib]` with `crate-type = [\"cdylib\"]`",
            manifest.display()
        );
    }
    let toolchain = Toolchain::require(context)?;
    let packages = [package];
    let built = if dir.starts_with(&context.root) {
        build_shared(context, &toolchain, &manifest, &packages)?
    } else {
        build_in(
            context,
            &toolchain,
            &manifest,
            &packages,
            &dir.join("target"),
        )?
    };
    let [package] = packages;
    let component = project_component(&dir, &package.component_file());
    for path in &built {
        copy_if_changed(path, &component)?;
    }
    Ok(component)
}

/// Builds `packages` of the repository in the target folder that all clones share; returns the
/// components in the order of `packages`.
pub fn build_shared(
    context: &Context,
    toolchain: &Toolchain,
    manifest: &Path,
    packages: &[Package],
) -> Result<Vec<PathBuf>> {
    let target = context.guest_target_dir();
    let _claim = claim_guest_target(context)?;
    build_in(context, toolchain, manifest, packages, &target)
}

/// Claims the guests' target folder for this clone. The fuzz targets are linted there.
pub fn claim_guest_target(context: &Context) -> Result<SharedTarget> {
    let mut own = Vec::new();
    let mut manifests = context.guest_workspaces();
    manifests.push(context.fuzz_workspace());
    for manifest in manifests {
        own.extend(
            cargo::packages(context, &manifest)?
                .into_iter()
                .map(|package| package.name),
        );
    }
    SharedTarget::claim(&context.guest_target_dir(), &context.root, &own)
}

fn build_in(
    context: &Context,
    toolchain: &Toolchain,
    manifest: &Path,
    packages: &[Package],
    target: &Path,
) -> Result<Vec<PathBuf>> {
    let mut build = toolchain.cargo_build(context)?;
    // Without these, cargo would take the configuration of wherever we were started.
    build.dir(manifest.parent().unwrap_or(Path::new(".")));
    build
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target);
    for package in packages {
        build.arg("--package").arg(&package.name);
    }
    let messages = BuildMessages::of(build)?;
    let component = |package: &Package| {
        messages
            .component(&package.id)
            .with_context(|| format!("the build of {} left no component", package.name))
    };
    packages.iter().map(component).collect()
}

/// Copies `from` to `to` unless `to` has the same bytes already; a reader of `to` never sees a
/// part.
pub fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = to
        .parent()
        .with_context(|| format!("{} has no folder", to.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let partial = to.with_extension(format!("partial-{}", std::process::id()));
    fs::write(&partial, bytes).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("renaming to {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_once() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("a/b/to.wasm"));
        fs::write(&from, "1").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let first = fs::metadata(&to).unwrap().modified().unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), first);
        fs::write(&from, "2").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "2");
        assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn folders_that_are_no_plugin_are_refused() {
        let context = Context::from_env().unwrap();
        let temp = tempfile::tempdir().unwrap();
        let error = build(&context, temp.path()).unwrap_err().to_string();
        assert!(error.ends_with("has no Cargo.toml"), "{error}");
        fs::write(
            temp.path().join("Cargo.toml"),
            "[package]\nname = \"p\"\nversion = \"0.1.0\"\n",
        )
        .unwrap();
        fs::create_dir(temp.path().join("src")).unwrap();
        fs::write(temp.path().join("src/lib.rs"), "").unwrap();
        let error = build(&context, temp.path()).unwrap_err().to_string();
        assert!(error.contains("crate-type"), "{error}");
    }
}
