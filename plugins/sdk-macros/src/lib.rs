//! Attribute macros of flumen-plugin.
