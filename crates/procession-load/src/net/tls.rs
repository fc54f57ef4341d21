//! TLS as a client, over bytes that somebody else carries.

use super::Failure;
use crate::plan::TlsOptions;
use crate::result::ErrorKind;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where distributions keep the certificates that they trust, in one file.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// As much as one record holds, which the library has room for.
const MOST_UNREAD_BYTES: usize = 16 << 10;

/// What connections to one server have in common.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// For connections to `host`, on which this protocol is to be agreed upon, if any.
    ///
    /// # Errors
    ///
    /// What is wrong with the files that the options name, or with the host's name.
    pub fn new(options: &TlsOptions, host: &str, protocol: Option<&[u8]>) -> Result<TlsClient, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier(options, &provider)?);
        let mut config = match (&options.certificate_file, &options.key_file) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("the client certificate and its key cannot be used: {error}"))?
            }
            _ => builder.with_no_client_auth(),
        };
        // Each connection is another client's, which the server has not met before.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
        let name = options.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name.clone())
            .map_err(|_| format!("{name:?} is not a name that TLS can ask for"))?;
        Ok(TlsClient {
            config: Arc::new(config),
            name,
        })
    }

    /// A new connection's state, whose first bytes are to be sent.
    ///
    /// # Errors
    ///
    /// If the library has no memory for it.
    pub fn connect(&self) -> Result<TlsSession, Failure> {
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(failure)?;
        connection.set_buffer_limit(None);
        Ok(TlsSession(Box::new(connection)))
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("cannot read {}: {error}", path.display())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| unreadable(path, &error))?
        .collect();
    let certificates = certificates.map_err(|error| unreadable(path, &error))?;
    if certificates.is_empty() {
        return Err(format!("there is no certificate in {}", path.display()));
    }
    Ok(certificates)
}

fn verifier(
    options: &TlsOptions,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if options.insecure {
        return Ok(Arc::new(TakesAny(Arc::clone(provider))));
    }
    let mut roots = RootCertStore::empty();
    if let Some(path) = &options.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| unreadable(path, &error))?;
        }
    } else {
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let bundle = named
            .into_iter()
            .chain(SYSTEM_BUNDLES.iter().map(PathBuf::from))
            .find(|path| path.exists())
            .ok_or("this system has no file of certificates to trust: name one, or take any certificate")?;
        // Of hundreds of certificates some may be of a kind that is not known.
        roots.add_parsable_certificates(certificates(&bundle)?);
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| error.to_string())?;
    Ok(verifier)
}

/// Believes every server, for tests of servers that have no certificate of an authority.
#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn failure(error: rustls::Error) -> Failure {
    Failure::new(ErrorKind::Tls, format!("TLS: {error}"))
}

/// One connection.
#[derive(Debug)]
pub struct TlsSession(Box<ClientConnection>);

impl TlsSession {
    /// Whether the two sides have not agreed yet.
    pub fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Takes bytes that have come in, until there is something to [`read`](TlsSession::read) first; returns how many.
    ///
    /// # Errors
    ///
    /// If they are not TLS, or the other side is not who it should be.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        let mut left = bytes;
        while !left.is_empty() {
            let read = self.0.read_tls(&mut left);
            let read = read.map_err(|error| Failure::new(ErrorKind::Tls, format!("TLS: {error}")))?;
            let state = self.0.process_new_packets().map_err(failure)?;
            if read == 0 {
                // It was closed properly; what follows has no meaning.
                return Ok(bytes.len());
            }
            // The library refuses more while so much of what it has opened was not read.
            if state.plaintext_bytes_to_read() >= MOST_UNREAD_BYTES {
                break;
            }
        }
        Ok(bytes.len() - left.len())
    }

    /// Reads what was received: 0 bytes at the end, `None` if there is nothing yet.
    pub fn read(&mut self, into: &mut [u8]) -> Option<usize> {
        match self.0.reader().read(into) {
            Ok(n) => Some(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // The end without a proper close.
            Err(_) => Some(0),
        }
    }

    /// Gives bytes to be sent.
    pub fn write(&mut self, bytes: &[u8]) {
        // There is no limit, so there is always room.
        let _ = self.0.writer().write_all(bytes);
    }

    /// Appends to `out` what is to go over the wire.
    pub fn emit(&mut self, out: &mut Vec<u8>) {
        while self.0.wants_write() {
            // A vector takes everything.
            if self.0.write_tls(out).is_err() {
                return;
            }
        }
    }

    /// The protocol that was agreed upon.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.0.alpn_protocol()
    }
}
