//! TLS at the door: its own certificate, those of clients, and which comes first, the handshake or INFO.

use std::{fmt::Display, io, path::Path, sync::Arc, time::Duration};

use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    net::TcpStream,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::TlsSettings;
use crate::{config::Toggle, error::NodeError};

/// How long the door waits for a client's handshake before it says INFO, when either may come first. As nats-server's `auto`.
pub(super) const WAIT_FOR_HELLO: Duration = Duration::from_millis(50);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Authorities in one file.
const AUTHORITIES_MAX: usize = 1024;

/// How connections are encrypted.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    first: Toggle,
    /// Whether clients must show a certificate.
    pub(super) verifies_clients: bool,
}

impl Tls {
    /// As the files say.
    pub(super) fn load(settings: &TlsSettings) -> Result<Self, NodeError> {
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, NodeError> {
            CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect)
                .map_err(|error| wrong(path, &error))
        };
        let chain = certificates(&settings.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|error| wrong(&settings.key, &error))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&settings.certificate, &error))?;
        let builder = match &settings.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                let authorities = certificates(path)?;
                if authorities.len() > AUTHORITIES_MAX {
                    return Err(wrong(path, &format!("it has more than {AUTHORITIES_MAX} certificates")));
                }
                for authority in authorities {
                    roots.add(authority).map_err(|error| wrong(path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| wrong(path, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|error| wrong(&settings.certificate, &error))?;
        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            first: settings.first,
            verifies_clients: settings.client_authorities.is_some(),
        })
    }

    /// Whether the handshake comes before INFO on this connection; where the client decides, it has [`WAIT_FOR_HELLO`] to begin.
    pub(super) async fn comes_first(&self, stream: &TcpStream) -> bool {
        match self.first {
            Toggle::Off => false,
            Toggle::On => true,
            Toggle::Auto => timeout(WAIT_FOR_HELLO, stream.peek(&mut [0])).await.is_ok(),
        }
    }

    /// The handshake.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let accepted: Result<_, Elapsed> = timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await;
        accepted?
    }
}

fn wrong(path: &Path, error: &dyn Display) -> NodeError {
    NodeError::invalid(format!("{}: {error}", path.display())).with_hint(
        "nats.tls_certificate, nats.tls_key and nats.tls_client_authorities are PEM files: the chain, its own certificate first, \
         the private key, and the authorities' certificates",
    )
}
