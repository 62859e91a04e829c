//! Integration tests: one binary, modules named after rooms and faults.
