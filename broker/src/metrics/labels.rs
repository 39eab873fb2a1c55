//! Which labels a family of metrics has: the families cannot tell it, and what is gone must go from
//! them, or a broker would tell of it, and keep it in memory, for ever.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

/// Labels that were used; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Labels<T>(Arc<Mutex<BTreeSet<T>>>);

impl<T> Default for Labels<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Ord + Clone> Labels<T> {
    /// A label is used from now on.
    pub(crate) fn note(&self, label: &T) {
        let mut labels = self.0.lock();
        if !labels.contains(label) {
            labels.insert(label.clone());
        }
    }

    /// Takes out those that are not to be kept.
    pub(super) fn take_unless(&self, is_kept: impl Fn(&T) -> bool) -> Vec<T> {
        let mut labels = self.0.lock();
        let (kept, gone) = std::mem::take(&mut *labels).into_iter().partition(is_kept);
        *labels = kept;
        Vec::from_iter::<BTreeSet<T>>(gone)
    }
}
