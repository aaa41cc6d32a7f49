//! The engine: one task that owns the core.

pub mod handle;
