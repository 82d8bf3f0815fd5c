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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    use crate::model::Compression;
    use crate::storage::tests::support::{TestStore, block_on, encode, record};
    use crate::storage::{Commit, Partition};

    /// A commit of one record, and where it is told what became of it: with the end of the partition
    /// at that moment.
    fn commit(partition: &Arc<Partition>) -> (Commit, Receiver<(bool, u64)>) {
        let (told, outcome) = channel();
        let mut commit = Commit::new();
        let batch = encode(Compression::None, &[record("k", None, 0)]);
        commit.append(Arc::clone(partition), batch);
        let partition = Arc::clone(partition);
        commit.on_outcome(move |happened| {
            told.send((happened, partition.high_watermark())).unwrap();
        });
        (commit, outcome)
    }

    #[test]
    fn it_is_told_after_the_change_is_visible_and_before_the_answer() {
        let store = TestStore::new();
        let partition = store.partition(1, 0);
        let (commit, outcome) = commit(&partition);
        store.commit(commit);
        // Not `recv`: it has been told by now.
        assert_eq!(outcome.try_recv(), Ok((true, 1)));
        assert!(outcome.try_recv().is_err());
    }

    #[test]
    fn a_commit_that_is_dropped_did_not_happen() {
        let store = TestStore::new();
        let partition = store.partition(1, 0);
        let (unsent, outcome) = commit(&partition);
        drop(unsent);
        assert_eq!(outcome.try_recv(), Ok((false, 0)));

        let (mut too_large, outcome) = commit(&partition);
        let kind = crate::storage::schema::KeyKind::State;
        too_large.put(kind, [0x30], vec![0; 200 << 20].into());
        assert!(block_on(store.store().commit(too_large)).is_err());
        assert_eq!(outcome.try_recv(), Ok((false, 0)));

        let mut delete = Commit::new();
        delete.delete_partition(&partition);
        store.commit(delete);
        let (to_deleted, outcome) = commit(&partition);
        assert!(block_on(store.store().commit(to_deleted)).is_err());
        assert_eq!(outcome.try_recv(), Ok((false, 0)));

        let other = store.partition(1, 1);
        let (mut requires, outcome) = commit(&other);
        requires.require_partition(&partition);
        assert!(block_on(store.store().commit(requires)).is_err());
        assert_eq!(outcome.try_recv(), Ok((false, 0)));
        assert_eq!(other.high_watermark(), 0);
    }
}
