//! Which pipelines use a topic or a queue: one that is deleted under them lets them fail, and what it holds is lost.

use std::fmt;

use super::manifests::resolve;
use super::{Error, records};
use crate::manifest::TargetPlace;
use crate::model::{PipelineName, Target};
use crate::storage::Store;

/// A pipeline that uses a topic or a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetUser {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// At which places of it.
    pub places: Vec<TargetPlace>,
}

impl fmt::Display for TargetUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<String> = self.places.iter().map(TargetPlace::to_string).collect();
        write!(f, "pipeline `{}` ({})", self.pipeline, places.join(", "))
    }
}

/// Checks that no pipeline of a manifest that was applied uses a topic or a queue, whether or not it runs. None begins to
/// as long as whoever asks [holds](super::Deployments::hold) everything, or runs no pipelines.
///
/// It goes by what is stored, since what runs is not all there is: a server may not have started everything yet, or
/// could not start a manifest again, and a verb that finds no server starts nothing.
///
/// # Errors
/// [`Error::TargetInUse`]; [`Error::UnknownUse`] if a manifest that was applied cannot be read any more.
pub fn check_unused(store: &Store, target: &Target) -> Result<(), Error> {
    let mut users = Vec::new();
    for (name, applied) in records::manifests(store)? {
        let manifest = resolve(&name, &applied.text).map_err(|source| Error::UnknownUse {
            target: target.clone(),
            manifest: name.clone(),
            source: Box::new(source),
        })?;
        for spec in manifest.pipelines {
            let places = spec.places_of(target);
            if !places.is_empty() && !applied.removed.contains(&spec.name) {
                users.push(TargetUser {
                    pipeline: spec.name,
                    places,
                });
            }
        }
    }
    match users.is_empty() {
        true => Ok(()),
        false => Err(Error::TargetInUse {
            target: target.clone(),
            users,
        }),
    }
}
