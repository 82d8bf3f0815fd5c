//! Backups of a data directory: taken while it is written to, checked, and restored.
//!
//! A backup is a folder:
//!
//! ```text
//! BACKUP       what is in it: JSON with the size and CRC-32C of every file
//! FORMAT       as in the data directory
//! store/       a checkpoint of the store
//! ...          whatever else lies in the data directory and cannot be made again
//! ```
//!
//! It appears whole, by renaming, once everything in it is on disk. So does a restored data directory.

mod create;
mod error;
mod files;
mod list;
mod restore;
mod staging;
#[cfg(test)]
mod tests;

pub use create::create;
pub use error::Error;
pub use list::{BackedUpFile, FileList};
pub use restore::{check, restore};
