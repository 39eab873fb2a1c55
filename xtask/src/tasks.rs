//! One file for each task.

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod fuzz;
pub(crate) mod guests;
pub(crate) mod simulate;
pub(crate) mod test;
