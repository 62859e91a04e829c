//! The certificate that a client shows: in the handshake, or in the header of a proxy that ended the
//! handshake for us (RFC 9440).
//!
//! In: the connection, its headers. Out: the chain, the leaf first, whose key was proved. Who vouches
//! for it is for `identity` to say: the handshake asks every client and verifies nobody's issuer.

use super::peer::Network;
use crate::broker::Reason;
use crate::broker::Refusal;
use crate::identity::ClientCertificate;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::net::IpAddr;

const LEAF: &str = "client-cert";
const CHAIN: &str = "client-cert-chain";

/// What the handshake of this connection showed. Set by the listener.
#[derive(Debug, Clone, Default)]
pub struct FromHandshake(pub Option<ClientCertificate>);

/// The client's certificate, wherever it came from. Set by the gate.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Shown(pub Option<ClientCertificate>);

/// From whom, and whether, the headers of RFC 9440 are taken.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct HeaderRule<'a> {
    pub is_on: bool,
    pub trusted: &'a [Network],
}

/// SECURITY: the address is that of the connection itself, never one that a header names.
pub(in crate::http) fn shown(
    connected: Option<IpAddr>,
    handshake: Option<ClientCertificate>,
    headers: &HeaderMap,
    rule: HeaderRule<'_>,
) -> Result<Shown, Refusal> {
    let is_proxy = connected.is_some_and(|ip| rule.trusted.iter().any(|known| known.contains(ip)));
    let has_header = headers.contains_key(LEAF) || headers.contains_key(CHAIN);
    if !has_header {
        // SECURITY: a proxy's own certificate is not its client's.
        return Ok(Shown(handshake.filter(|_| !is_proxy)));
    }
    // SECURITY: refused, not ignored: whoever sends it means to be somebody by it, and a proxy that
    // passes its client's own header on shows here.
    if !is_proxy || !rule.is_on {
        return Err(refused(
            "a client certificate header from whom it is not taken",
        ));
    }
    from_headers(headers).map(|certificate| Shown(Some(certificate)))
}

fn from_headers(headers: &HeaderMap) -> Result<ClientCertificate, Refusal> {
    let mut leaves = headers.get_all(LEAF).iter();
    let (Some(leaf), None) = (leaves.next(), leaves.next()) else {
        return Err(refused("there is not one Client-Cert header"));
    };
    let malformed = || refused("a client certificate header that is no byte sequence");
    let leaf = leaf.to_str().ok().and_then(byte_sequence);
    let mut chain = vec![leaf.ok_or_else(malformed)?];
    // A list may stand in several lines (RFC 8941 section 3.1).
    for line in headers.get_all(CHAIN) {
        for item in line.to_str().map_err(|_| malformed())?.split(',') {
            chain.push(byte_sequence(item).ok_or_else(malformed)?);
        }
    }
    ClientCertificate::new(chain)
        .ok_or_else(|| refused("a chain of certificates that is empty or too long"))
}

/// RFC 8941 section 3.3.5, without parameters: `:base64:`.
fn byte_sequence(text: &str) -> Option<Vec<u8>> {
    let inner = text.trim_matches([' ', '\t']);
    let inner = inner.strip_prefix(':')?.strip_suffix(':')?;
    STANDARD
        .decode(inner)
        .ok()
        .filter(|bytes| !bytes.is_empty())
}

fn refused(detail: &str) -> Refusal {
    Refusal::new(Reason::MalformedRequest, detail)
        .exact()
        .at(Some("Client-Cert".to_owned()))
}

/// Asks for a certificate, takes none for an answer, and checks that whoever shows one holds its key.
// SECURITY: it vouches for nobody. The roots depend on who the client says it is, which the handshake
// does not know.
#[derive(Debug)]
pub(in crate::http) struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyCertificate {
    pub fn new(provider: &rustls::crypto::CryptoProvider) -> Self {
        Self {
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        ClientCertificate::new(chain.map(|der| der.to_vec()).collect())
            .map(|_| ClientCertVerified::assertion())
            .ok_or(CertificateError::BadEncoding.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
