//! The certificates that `onewrite serve` shows, and those it asks for.

use std::{path::Path, sync::Arc};

use onewrite::{Code, Error, Result};
use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject as _},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

/// Where the certificates are, all as PEM.
#[derive(Debug, Clone, Copy)]
pub(super) struct TlsFiles<'a> {
    /// The server's certificate, and those that lead from it to its authority.
    pub(super) cert: &'a Path,
    /// The private key of the server's certificate.
    pub(super) key: &'a Path,
    /// The authorities of the clients. Where it is given, a client without a certificate of theirs is not let in.
    pub(super) client_ca: Option<&'a Path>,
}

/// What TLS is served with.
///
/// # Errors
/// [`Code::InvalidConfig`] when a file cannot be read or does not hold what it should.
pub(super) fn config(files: TlsFiles<'_>) -> Result<Arc<ServerConfig>> {
    // Named here: with more than one provider linked in, rustls would not choose by itself.
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(files.cert, "certificate")?;
    let key = private_key(files.key)?;
    let clients = files.client_ca.map(|path| clients(path, &provider)).transpose()?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("set up TLS").with_source(error))?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| unusable(files, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Why a certificate and a key cannot be served together.
fn unusable(files: TlsFiles<'_>, error: rustls::Error) -> Error {
    let (cert, key) = (files.cert.display(), files.key.display());
    if matches!(error, rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
        return invalid(format!(
            "the private key in {key} does not belong to the first certificate in {cert}: name \
             the two that were made together, and put the server's own certificate first"
        ));
    }
    let what = format!(
        "the certificate in {cert} cannot be served with the private key in {key}: give an X.509 \
         certificate with an RSA, ECDSA or Ed25519 key"
    );
    invalid(what).with_source(error)
}

/// Who verifies the certificates of clients by the authorities in `path`.
fn clients(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>> {
    let refused = || {
        let path = path.display();
        invalid(format!("{path} holds no usable CA certificate: give the authority's own"))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "CA certificate")? {
        roots.add(certificate).map_err(|error| refused().with_source(error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| refused().with_source(error))
}

/// All certificates in `path`, at least one.
fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path, what)?;
    let found: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(absent(path, what, "give a PEM file with a section `CERTIFICATE`")),
        Err(error) => Err(damaged(path, what, &error)),
    }
}

/// The first private key in `path`.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let what = "private key";
    PrivateKeyDer::from_pem_slice(&read(path, what)?).map_err(|error| match error {
        PemError::NoItemsFound => {
            absent(path, what, "give a PEM file with a section `PRIVATE KEY`, without a passphrase")
        }
        error => damaged(path, what, &error),
    })
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let path = path.display();
        invalid(format!("read the {what} in {path}: name a file that this user may read"))
            .with_source(error)
    })
}

fn absent(path: &Path, what: &str, cure: &str) -> Error {
    invalid(format!("{} holds no {what}: {cure}", path.display()))
}

/// What is wrong with a PEM file, in words of ours: those of the parser quote lines of it, and a key's are secret.
fn damaged(path: &Path, what: &str, error: &PemError) -> Error {
    let flaw = match error {
        PemError::MissingSectionEnd { .. } => "a section has no end",
        PemError::IllegalSectionStart { .. } => "the first line of a section is not valid",
        PemError::Base64Decode(_) => "a section is not valid base64",
        _ => "it cannot be parsed",
    };
    let path = path.display();
    invalid(format!("the {what} in {path} is damaged ({flaw}): export it again as PEM"))
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfig, what)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use onewrite_testkit::certificates::Certificates;
    use rustls::{ClientConfig, pki_types::ServerName};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    fn at(certificates: &Certificates, name: &str) -> PathBuf {
        certificates.file(name).into()
    }

    /// A server of `localhost` that asks for the certificates of clients, or not.
    pub(in crate::serve) fn server(made: &Certificates, asks: bool) -> Arc<ServerConfig> {
        let (cert, key, ca) = (at(made, "server.crt"), at(made, "server.key"), at(made, "ca.crt"));
        config(TlsFiles { cert: &cert, key: &key, client_ca: asks.then_some(&*ca) }).unwrap()
    }

    /// A client that trusts the server's authority and shows a certificate of it, or not.
    pub(in crate::serve) fn client(made: &Certificates, shows: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        for root in certificates(&at(made, "ca.crt"), "root").unwrap() {
            roots.add(root).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if shows {
            let chain = certificates(&at(made, "server.crt"), "certificate").unwrap();
            let key = private_key(&at(made, "server.key")).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        TlsConnector::from(Arc::new(config))
    }

    #[tokio::test]
    async fn whoever_shows_no_certificate_is_not_let_in_where_one_is_asked_for() {
        let made = Certificates::make();
        for (asks, shows, welcome) in
            [(false, false, true), (true, true, true), (true, false, false)]
        {
            let (here, there) = tokio::io::duplex(16_384);
            let name = ServerName::try_from("localhost").unwrap();
            let acceptor = TlsAcceptor::from(server(&made, asks));
            let connector = client(&made, shows);
            let (accepted, _client) =
                tokio::join!(acceptor.accept(here), connector.connect(name, there));
            assert_eq!(accepted.is_ok(), welcome, "asks {asks}, shows {shows}: {accepted:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let made = Certificates::make();
        for (cert, key, client_ca, says) in [
            ("none.crt", "server.key", None, "read the certificate in"),
            ("server.crt", "none.key", None, "read the private key in"),
            ("server.crt", "server.key", Some("none.crt"), "read the CA certificate in"),
            ("server.key", "server.key", None, "server.key holds no certificate"),
            ("server.crt", "server.crt", None, "server.crt holds no private key"),
            ("server.crt", "server.key", Some("ca.key"), "ca.key holds no CA certificate"),
            ("ca.crt", "server.key", None, "does not belong to the first certificate in"),
        ] {
            let (cert, key) = (at(&made, cert), at(&made, key));
            let client_ca = client_ca.map(|name| at(&made, name));
            let files = TlsFiles { cert: &cert, key: &key, client_ca: client_ca.as_deref() };
            let error = config(files).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig);
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.key");
        let (label, secret) = ("PRIVATE KEY", "s3cret!");
        for (head, tail, says) in [
            ("-----", format!("-----END {label}-----\n"), "is not valid base64"),
            ("-----", String::new(), "has no end"),
            (secret, String::new(), "first line"),
        ] {
            let text = format!("-----BEGIN {label}{head}\n{secret}\n{tail}");
            std::fs::write(&path, text).unwrap();
            let error = private_key(&path).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
    }
}
