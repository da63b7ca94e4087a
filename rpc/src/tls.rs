//! TLS 1.3 with keys pinned by identity: no authority, no names, no dates.
//!
//! A node's certificate is made from its identity and signed by itself; it is only the envelope in which TLS carries an
//! Ed25519 key. Each side asks one question: is this key allowed here? The handshake signature proves that the other side
//! holds it. Between nodes only X25519MLKEM768 is spoken; clients may fall back to X25519. Sessions are never resumed, so
//! every connection asks the question anew. A key that is no longer allowed keeps the connections that it already has:
//! whoever changes the set closes them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WantsServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
};
use symbolon_protocol::identity::{Identity, PublicKey};

/// The name in every certificate and in every client's hello. It identifies nobody.
pub const SERVER_NAME: &str = "symbolon-node";

/// HTTP/2, the only protocol behind these connections.
pub const ALPN_H2: &[u8] = b"h2";

/// `SubjectPublicKeyInfo` of an Ed25519 key up to the key (RFC 8410): fixed, because the algorithm has no parameters.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

const BETWEEN_NODES: &[&dyn SupportedKxGroup] = &[kx_group::X25519MLKEM768];
const TO_CLIENTS: &[&dyn SupportedKxGroup] = &[kx_group::X25519MLKEM768, kx_group::X25519];

/// Whether a key may be on the other side. Asked in every handshake, so that the answer may change while a node runs.
pub type Allowed = Arc<dyn Fn(&PublicKey) -> bool + Send + Sync>;

/// Allows exactly these keys.
pub fn only(keys: impl IntoIterator<Item = PublicKey>) -> Allowed {
    let keys: BTreeSet<PublicKey> = keys.into_iter().collect();
    Arc::new(move |key| keys.contains(key))
}

/// Why no TLS configuration, or no key of the other side, could be had.
#[derive(Debug)]
pub enum TlsError {
    /// The certificate could not be made.
    Certificate(rcgen::Error),
    /// The private key could not be encoded.
    PrivateKey,
    /// TLS refused a certificate or a configuration.
    Tls(rustls::Error),
    /// The other side showed this many certificates; one is expected.
    Certificates(usize),
    /// The key in the certificate is not a sound Ed25519 key.
    NotEd25519,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "the TLS certificate cannot be made: {error}"),
            Self::PrivateKey => write!(f, "the identity cannot be encoded as a TLS key"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Certificates(count) => write!(f, "{count} certificates where one is expected"),
            Self::NotEd25519 => write!(f, "the key in the certificate is not an Ed25519 key"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<rcgen::Error> for TlsError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

/// Signs the certificate. rcgen's own key type would keep a copy of the secret that nothing wipes.
struct CertificateSigner {
    key: ed25519_dalek::SigningKey,
    public: [u8; 32],
}

impl rcgen::PublicKeyData for CertificateSigner {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for CertificateSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign(message).to_bytes().to_vec())
    }
}

/// The certificate and TLS key of an identity; the same identity always gives the same two.
///
/// The dates are fixed and far apart: the key is pinned, so a date would decide nothing.
///
/// # Errors
/// [`TlsError::Certificate`] or [`TlsError::PrivateKey`] when encoding fails; no identity is known for which it does.
pub fn certificate(identity: &Identity) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
    let key = ed25519_dalek::SigningKey::from_bytes(identity.expose_seed());
    let signer = CertificateSigner { key, public: *identity.public().as_bytes() };

    let mut params = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, SERVER_NAME);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(4096, 1, 1);
    let certificate = params.self_signed(&signer)?.der().clone();

    let secret = signer.key.to_pkcs8_der().map_err(|_| TlsError::PrivateKey)?;
    Ok((certificate, PrivateKeyDer::Pkcs8(secret.as_bytes().to_vec().into())))
}

/// The identity key of the other side, from the certificates that it showed.
///
/// # Errors
/// [`TlsError`] unless there is exactly one certificate, and a sound Ed25519 key in it.
pub fn peer_key(certificates: &[CertificateDer<'_>]) -> Result<PublicKey, TlsError> {
    let [certificate] = certificates else {
        return Err(TlsError::Certificates(certificates.len()));
    };
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let bytes: &[u8; 32] =
        spki.as_ref().strip_prefix(&ED25519_SPKI).and_then(|key| key.try_into().ok()).ok_or(TlsError::NotEd25519)?;
    PublicKey::from_bytes(bytes).map_err(|_| TlsError::NotEd25519)
}

/// Accepts exactly the certificates whose key is allowed, from servers and from clients alike.
///
/// The certificate's own signature, names and dates are not looked at: the handshake signature, by the pinned key and over
/// this very handshake, proves more.
pub struct PinnedKeys {
    allowed: Allowed,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedKeys {
    /// A verifier that asks `allowed` in every handshake.
    ///
    /// # Errors
    /// [`TlsError::Tls`] when the TLS library knows no Ed25519.
    pub fn new(allowed: Allowed) -> Result<Self, TlsError> {
        Ok(Self { allowed, algorithms: ed25519_only()? })
    }

    fn check(&self, end_entity: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let key = peer_key(std::slice::from_ref(end_entity)).map_err(|_| CertificateError::BadEncoding)?;
        if (self.allowed)(&key) { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }
}

impl fmt::Debug for PinnedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedKeys").finish_non_exhaustive()
    }
}

/// Never reached, since no configuration offers TLS 1.2.
fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
}

impl ServerCertVerifier for PinnedKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PinnedKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The part of the provider's algorithms that verifies Ed25519 and nothing else.
fn ed25519_only() -> Result<WebPkiSupportedAlgorithms, TlsError> {
    let mapping = default_provider().signature_verification_algorithms.mapping;
    mapping
        .chunks(1)
        .find_map(|one| match one {
            [(SignatureScheme::ED25519, all)] => Some(WebPkiSupportedAlgorithms { all, mapping: one }),
            _ => None,
        })
        .ok_or_else(|| rustls::Error::General("the TLS library knows no Ed25519".to_owned()).into())
}

fn provider(groups: &[&'static dyn SupportedKxGroup]) -> Result<Arc<CryptoProvider>, TlsError> {
    Ok(Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: groups.to_vec(),
        signature_verification_algorithms: ed25519_only()?,
        ..default_provider()
    }))
}

fn finish_server(
    identity: &Identity,
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let (certificate, key) = certificate(identity)?;
    let mut config = builder.with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn client_builder(
    allowed: Allowed,
    groups: &[&'static dyn SupportedKxGroup],
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider(groups)?)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedKeys::new(allowed)?)))
}

fn finish_client(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// For the listener that other nodes connect to: a certificate with an allowed key is mandatory.
///
/// # Errors
/// [`TlsError`] when the certificate or the configuration cannot be made.
pub fn peer_server_config(identity: &Identity, allowed: Allowed) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider(BETWEEN_NODES)?)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(PinnedKeys::new(allowed)?));
    finish_server(identity, builder)
}

/// What a node shows to the nodes that it connects to, also to ones that it comes to know later.
#[derive(Clone)]
pub struct PeerCredentials(Arc<CertifiedKey>);

impl PeerCredentials {
    /// Of an identity.
    ///
    /// # Errors
    /// [`TlsError`] when the certificate cannot be made.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        let (certificate, key) = certificate(identity)?;
        let certified = CertifiedKey::from_der(vec![certificate], key, &*provider(BETWEEN_NODES)?)?;
        Ok(Self(Arc::new(certified)))
    }

    /// For a connection to another node, which must be exactly `expected`.
    ///
    /// # Errors
    /// [`TlsError`] when the configuration cannot be made.
    pub fn to(&self, expected: PublicKey) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = client_builder(only([expected]), BETWEEN_NODES)?;
        let shown = SingleCertAndKey::from(Arc::clone(&self.0));
        Ok(finish_client(builder.with_client_cert_resolver(Arc::new(shown))))
    }
}

/// For one connection to another node, which must be exactly `expected`.
///
/// # Errors
/// [`TlsError`] when the certificate or the configuration cannot be made.
pub fn peer_client_config(identity: &Identity, expected: PublicKey) -> Result<Arc<ClientConfig>, TlsError> {
    PeerCredentials::new(identity)?.to(expected)
}

/// For the listener that clients connect to: they show no certificate, each of their requests is signed.
///
/// # Errors
/// [`TlsError`] when the certificate or the configuration cannot be made.
pub fn client_server_config(identity: &Identity) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider(TO_CLIENTS)?)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth();
    finish_server(identity, builder)
}

/// For a client: the server must be one of the allowed nodes.
///
/// # Errors
/// [`TlsError`] when the configuration cannot be made.
pub fn client_config(allowed: Allowed) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(finish_client(client_builder(allowed, TO_CLIENTS)?.with_no_client_auth()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
