//! The limit on open files: partitions need many, and the default is low.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. The broker works with less, but opens and closes
/// more often.
pub(in crate::node) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}
