//! What an attacker may send, as functions over bytes: one for each parser that reads what others
//! wrote. In tests and in fuzz builds only.
//!
//! In: any bytes at all. Out: nothing, or a panic where something that must always hold does not.
//! `fuzz/` runs them under libFuzzer; the tests here replay `fuzz/corpus` and change it at random.

mod containment;
mod records;
mod requests;
mod tokens;
mod trust;

pub use containment::{authorization_details, patterns};
pub use records::{audit, config, lease};
pub use requests::form;
pub use tokens::{aws, claims, dpop, intent, jwks, jws};
pub use trust::{bundle, certificate};

/// Panics where something that must always hold does not.
pub type Target = fn(&[u8]);

/// Every target by its name: of its file in `fuzz/fuzz_targets`, and of its folder in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("audit", audit),
    ("authorization_details", authorization_details),
    ("aws", aws),
    ("bundle", bundle),
    ("certificate", certificate),
    ("claims", claims),
    ("config", config),
    ("dpop", dpop),
    ("form", form),
    ("intent", intent),
    ("jwks", jwks),
    ("jws", jws),
    ("lease", lease),
    ("patterns", patterns),
];

#[cfg(test)]
mod tests;
