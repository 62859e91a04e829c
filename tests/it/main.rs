//! Integration tests: one binary, modules named after rooms and faults.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::string_slice,
    reason = "a test that cannot go on must fail, and says why"
)]

mod exchange;
mod support;
