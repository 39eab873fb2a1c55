//! Codes with which a broker closes connections.

/// The broker stops; another one may follow on its address.
pub const STOPPING: u32 = 1;

/// No credential was shown in time.
pub const UNAUTHENTICATED: u32 = 2;
