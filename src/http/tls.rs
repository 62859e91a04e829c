//! A listener's certificate: read, checked, swapped whole or not at all.

use super::certificate::AnyCertificate;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// `[broker]` `tls`: PEM files, the leaf certificate first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whether clients are asked for a certificate.
    pub ask_client: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{path}` cannot be read: {cause}")]
    Read {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("`{0}` holds no PEM certificate")]
    NoCertificate(PathBuf),
    #[error("`{0}` holds no PEM private key (PKCS#8, PKCS#1 or SEC1)")]
    NoKey(PathBuf),
    #[error("certificate and key do not go together, or are not usable: {0}")]
    Unusable(rustls::Error),
}

/// Swaps the certificate under a running listener: new connections get the new one.
#[derive(Debug, Clone)]
pub struct TlsReload {
    files: TlsFiles,
    current: Arc<ArcSwap<ServerConfig>>,
}

impl TlsReload {
    pub async fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let config = load(&files).await?;
        Ok(Self {
            files,
            current: Arc::new(ArcSwap::from_pointee(config)),
        })
    }

    /// Reads the files again. On an error the old certificate stays.
    pub async fn reload(&self) -> Result<(), TlsError> {
        let config = load(&self.files).await?;
        self.current.store(Arc::new(config));
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

async fn load(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let pem = read(&files.certificate).await?;
    let no_certificate = || TlsError::NoCertificate(files.certificate.clone());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| no_certificate())?;
    if chain.is_empty() {
        return Err(no_certificate());
    }
    let pem = read(&files.key).await?;
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoKey(files.key.clone()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?;
    let builder = if files.ask_client {
        builder.with_client_cert_verifier(Arc::new(AnyCertificate::new(&provider)))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    if files.ask_client {
        // A session that is resumed shows no certificate again. Each connection proves its key.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    tokio::fs::read(path)
        .await
        .map(Zeroizing::new)
        .map_err(|cause| TlsError::Read {
            path: path.to_owned(),
            cause,
        })
}
