//! Where the components are that the tests run.

use std::path::PathBuf;

/// The variable that names the folder of the components.
const FOLDER: &str = "MILLSTREAM_TEST_PLUGINS";

/// The component of a package in `plugins/`, such as `testing-traps`.
pub fn component(package: &str) -> PathBuf {
    let Some(folder) = std::env::var_os(FOLDER) else {
        panic!(
            "{FOLDER} is not set: run the tests with `cargo xtask test`, which builds the \
             components of plugins/ and passes their folder"
        );
    };
    let path = PathBuf::from(folder).join(format!("{}.wasm", package.replace('-', "_")));
    assert!(
        path.is_file(),
        "{} is not there: build the components with `cargo xtask test`",
        path.display()
    );
    path
}
