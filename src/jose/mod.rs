//! JOSE, strictly: one validator per `typ`, the algorithm fixed by the caller and by the key.
//! The only room that names josekit.

/// Signature algorithms Dayfly accepts or makes. Everything else is refused by not being here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `EdDSA` and `Ed25519` (RFC 9864) alike.
    Ed25519,
    Es256,
    Es384,
    Ps256,
    Rs256,
}

/// A parsed, bounded JWK set.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    _keys: (),
}
