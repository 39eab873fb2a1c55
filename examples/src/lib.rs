//! One file per user task.
