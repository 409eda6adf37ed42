//! libp2p's TLS with entropy from the seed.
//!
//! The handshake, the certificates and what they prove are libp2p's, and so is who checks them. What differs from the program's
//! are the parts in which its library draws random bytes where no simulator can reach: the certificate's key is an Ed25519 one
//! that follows from the seed, and keys are exchanged by X25519 alone, without the post-quantum half beside it.

use std::{io, sync::Arc};

use libp2p::identity::Keypair;
use quinn::{
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    rustls::{
        self, DigitallySignedStruct, DistinguishedName, NamedGroup, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup},
        pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
        server::danger::{ClientCertVerified, ClientCertVerifier},
        version::TLS13,
    },
};
use rand::Rng as _;
use rcgen::PublicKeyData as _;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

const PROTOCOL: &[u8] = b"libp2p";
/// Of the extension that names the node's key.
const EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];
const SIGNED_PREFIX: &[u8] = b"libp2p-tls-handshake:";
/// What stands before the 32 bytes of an Ed25519 key: in PKCS #8 before a secret one, in a certificate before a public one.
const SECRET_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Both sides of a node's handshakes.
pub(super) struct Tls {
    pub(super) client: Arc<QuicClientConfig>,
    pub(super) server: Arc<QuicServerConfig>,
}

/// The configurations of the node that owns `key`; its certificate's key follows from `secret`.
pub(super) fn configure(key: &Keypair, secret: &[u8; 32]) -> io::Result<Tls> {
    let (certificate, certificate_key) = certificate(key, secret)?;
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![&Exchange],
        secure_random: &Seeded,
        ..rustls::crypto::aws_lc_rs::default_provider()
    });
    let chain = vec![certificate];
    let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier))
        .with_client_auth_cert(chain.clone(), certificate_key.clone_key().into())
        .map_err(io::Error::other)?;
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    client.resumption = Resumption::disabled();
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .with_client_cert_verifier(Arc::new(Verifier))
        .with_single_cert(chain, certificate_key.into())
        .map_err(io::Error::other)?;
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    server.send_tls13_tickets = 0;
    Ok(Tls {
        client: Arc::new(QuicClientConfig::try_from(client).map_err(io::Error::other)?),
        server: Arc::new(QuicServerConfig::try_from(server).map_err(io::Error::other)?),
    })
}

/// A certificate that proves the node's key, and the key it is made with.
fn certificate(key: &Keypair, secret: &[u8; 32]) -> io::Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>)> {
    let encoded = PrivatePkcs8KeyDer::from([&SECRET_PREFIX[..], secret].concat());
    let own = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&encoded, &rcgen::PKCS_ED25519).map_err(io::Error::other)?;
    let signature = key
        .sign(&[SIGNED_PREFIX, &own.subject_public_key_info()].concat())
        .map_err(io::Error::other)?;
    let octets = |bytes: &[u8]| [&[0x04, bytes.len() as u8], bytes].concat();
    let content = [octets(&key.public().encode_protobuf()), octets(&signature)].concat();
    // Each length is below 128, and so takes one byte.
    let content = [&[0x30, content.len() as u8], &content[..]].concat();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .custom_extensions
        .push(rcgen::CustomExtension::from_oid_content(&EXTENSION, content));
    let certificate = params.self_signed(&own).map_err(io::Error::other)?;
    Ok((certificate.into(), encoded))
}

/// The thread's entropy, which is the seed's on the thread that simulates.
#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        rand::rng().fill_bytes(buffer);
        Ok(())
    }
}

/// X25519.
#[derive(Debug)]
struct Exchange;

impl SupportedKxGroup for Exchange {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let public = x25519(secret, X25519_BASEPOINT_BYTES);
        Ok(Box::new(Exchanging { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchanging {
    secret: [u8; 32],
    public: [u8; 32],
}

impl ActiveKeyExchange for Exchanging {
    fn complete(self: Box<Self>, theirs: &[u8]) -> Result<SharedSecret, rustls::Error> {
        let wrong = || rustls::Error::General("the peer's key is none".to_owned());
        let theirs: [u8; 32] = theirs.try_into().map_err(|_| wrong())?;
        let shared = x25519(self.secret, theirs);
        if shared == [0; 32] {
            return Err(wrong());
        }
        Ok(SharedSecret::from(&shared[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// Takes the certificate of any libp2p node; whose it is, is read from it afterwards.
#[derive(Debug)]
struct Verifier;

fn sound(certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
    libp2p_tls::certificate::parse(certificate)
        .map(|_| ())
        .map_err(|error| rustls::Error::General(error.to_string()))
}

fn signed(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let wrong = |error: String| rustls::Error::General(error);
    libp2p_tls::certificate::parse(certificate)
        .map_err(|error| wrong(error.to_string()))?
        .verify_signature(signed.scheme, message, signed.signature())
        .map_err(|error| wrong(error.to_string()))?;
    Ok(HandshakeSignatureValid::assertion())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        sound(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        sound(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
