//! How a command finds the server that holds its data directory: a file in the directory, which only its owner can
//! read, says where it listens and has a token that is good while it runs.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::layout::{NEW_SERVER, SERVER};

/// A running server, as its file describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LocalServer {
    /// Where it is reached on its machine, as a URL.
    pub(crate) url: String,
    /// A token with the role `admin`.
    pub(crate) token: String,
}

impl LocalServer {
    /// What the file of a data directory says; `None` if there is no such file. The server may be gone.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        let bytes = fs::read(data_dir.join(SERVER)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes the file; it goes when what is returned is dropped.
    ///
    /// # Errors
    /// It cannot be written.
    pub(in crate::server) fn announce(&self, data_dir: &Path) -> std::io::Result<Announced> {
        let (path, new) = (data_dir.join(SERVER), data_dir.join(NEW_SERVER));
        // One that was left behind may have other permissions.
        let _ = fs::remove_file(&new);
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, &path)?;
        Ok(Announced(path))
    }
}

/// A file that says where a server listens.
#[derive(Debug)]
pub(in crate::server) struct Announced(PathBuf);

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
