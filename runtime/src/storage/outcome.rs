//! What is to be done once it is known whether a commit happened.

/// Told once: `true` after the commit is visible, `false` when it is dropped before.
pub(super) struct Outcome(Option<Box<dyn FnOnce(bool) + Send>>);

impl Outcome {
    pub(super) fn new(then: impl FnOnce(bool) + Send + 'static) -> Self {
        Self(Some(Box::new(then)))
    }

    pub(super) fn happened(mut self) {
        if let Some(then) = self.0.take() {
            then(true);
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(false);
        }
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outcome")
    }
}
