//! Why a proof is not accepted.

use super::{CertificateFault, DpopFault, EnrolError};
use crate::ids::IssuerId;
use crate::jose::{JoseError, RemoteKeysError};

/// Each variant is one face on the wire; what lies within is for the log and the audit.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("nothing proves who is asking: send a subject_token, or authenticate")]
    Missing,
    /// 401 `invalid_client`. An unknown client and a bad signature look alike outside.
    #[error("client authentication failed: {0}")]
    InvalidClient(ClientFault),
    /// 400 `invalid_request` (RFC 8693 section 2.2.2).
    #[error("the subject token is not acceptable: {0}")]
    InvalidToken(TokenFault),
    /// 400 `invalid_grant` (RFC 7523 section 3.1).
    #[error("the assertion is not acceptable: {0}")]
    InvalidAssertion(AssertionFault),
    /// `invalid_dpop_proof`, `use_dpop_nonce` (RFC 9449 sections 5 and 8).
    #[error("the DPoP proof is not acceptable: {0}")]
    InvalidProof(DpopFault),
    /// 503: it cannot be decided now, so it is refused now.
    #[error("the keys of issuer `{issuer}` cannot be had: {source}")]
    Unavailable {
        issuer: IssuerId,
        source: RemoteKeysError,
    },
    /// 503: the platform has the last word on this proof and did not say it.
    #[error("issuer `{issuer}` cannot be asked about a proof: {why}")]
    Unasked { issuer: IssuerId, why: String },
    /// The keys that the client enrolled cannot be had, or are not as they were written.
    #[error(transparent)]
    Enrolled(EnrolError),
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ClientFault {
    #[error("agents have no shared secrets: send a client assertion")]
    SharedSecret,
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error("`iss` and `sub` must both be the client id")]
    IssuerSubject,
    #[error("no such client is registered with a key")]
    UnknownClient,
    #[error("the client_id parameter names another client than the assertion")]
    OtherClient,
    #[error("`aud` must be this broker's issuer URL and nothing else")]
    Audience,
    #[error("`jti` must be a string of 1 to 256 characters")]
    TokenId,
    #[error("`sub` is no SPIFFE ID of a configured trust domain")]
    TrustDomain,
    #[error("the SVID is not acceptable: {0}")]
    Svid(TokenFault),
    #[error("the certificate is not acceptable: {0}")]
    Certificate(CertificateFault),
    #[error("its credentials are bound to a certificate, and none was shown")]
    NoCertificate,
    #[error("its credentials are bound to a certificate, and the request proves another key")]
    TwoBindings,
}

/// What is wrong with the assertion of a `jwt-bearer` grant, by who issued it.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum AssertionFault {
    #[error(transparent)]
    Platform(#[from] TokenFault),
    #[error(transparent)]
    Client(#[from] ClientFault),
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum TokenFault {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error("its `iss` is not a configured issuer")]
    UnknownIssuer,
    #[error("no current key of its issuer has its `kid` and `alg`")]
    UnknownKey,
    #[error("its `sub` must be a string of 1 to 1024 characters")]
    Subject,
    #[error("its `aud` names none of the issuer's configured audiences")]
    Audience,
    #[error("it names more than one key to be bound to, or one that is no SHA-256 thumbprint")]
    BoundKey,
    #[error("its claim `{0}` is not of a configured tenant")]
    Tenant(String),
    #[error("its `jti` must be a string of 1 to 256 characters")]
    TokenId,
    #[error("its platform does not stand by it: {0}")]
    Disowned(String),
    #[error("the signed request is not acceptable: {0}")]
    SignedRequest(&'static str),
    #[error("it carries `act`: it was issued to someone who acts for its subject")]
    Delegated,
    #[error("it names a person: people are served by agents, and are none")]
    Person,
    #[error("it names a workload, not a person")]
    NoPerson,
    #[error(
        "it is no sign-in that is bound to a key: to run an agent in person, send the ID token of one with `nonce` = `dayfly-jkt:THUMBPRINT`"
    )]
    PersonUnbound,
    #[error("it is a sign-in for the person's own machine: no agent acts on behalf of it")]
    SignIn,
}
