//! The typed client of the Flumen message queue.
