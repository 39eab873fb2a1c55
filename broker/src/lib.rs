//! The broker of the Flumen message queue, as a library.
