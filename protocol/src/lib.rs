//! The wire protocol and the batch format of the Flumen message queue.
