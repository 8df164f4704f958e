//! TLS of the client commands: trusted authorities, the client certificate, and advice on a failed handshake.
//!
//! tonic's own `ClientTlsConfig` is not used, since it would lose the most useful piece of that advice. In TLS 1.3 the server judges the
//! client's certificate after the client has finished its handshake. A server that demands a certificate therefore refuses the client with
//! an alert on a connection that is already established. With tonic that connection belongs to h2, which keeps of an I/O error only its
//! kind and its text, and reports a broken pipe instead if it is writing at that moment. So [`Connector::connect`] waits for the server's
//! first bytes itself and maps the alert to "name a certificate with --tls-client-cert".

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::cli::pem::Pem;

/// How long to wait for the server's first bytes, which show that it has accepted the client. It should send them at once (RFC 9113, 3.4).
/// If it waits for the client's, the client goes on.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(1);

const ALPN: &[u8] = b"h2";

/// The advice if HTTP/2 was not negotiated.
const NO_HTTP2: &str = "the server does not offer HTTP/2, and so no gRPC";

/// Flags of every client for a server at an https address.
#[derive(clap::Args)]
#[group(id = "tls")]
pub(super) struct Args {
    /// Certificates of authorities to trust in addition to the system's, in PEM: for an https server with a private CA
    #[arg(long = "tls-ca", env = "PLAQUE_TLS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The client certificate for an https server that demands one, in PEM, followed by its chain
    #[arg(
        long = "tls-client-cert",
        env = "PLAQUE_TLS_CLIENT_CERT",
        value_name = "FILE",
        requires = "key"
    )]
    certificate: Option<PathBuf>,

    /// The private key of --tls-client-cert, in PEM
    #[arg(
        long = "tls-client-key",
        env = "PLAQUE_TLS_CLIENT_KEY",
        value_name = "FILE",
        requires = "certificate"
    )]
    key: Option<PathBuf>,
}

impl Args {
    /// The connector for `server`; `None` if it is at an http address.
    pub(super) fn connector(&self, server: &Uri) -> Result<Option<Connector>, String> {
        if server.scheme_str() == Some("http") {
            let flags = [("--tls-ca", &self.ca), ("--tls-client-cert", &self.certificate)];
            return match flags.iter().find(|(_, file)| file.is_some()) {
                Some((flag, _)) => Err(format!(
                    "{flag} is for a server at an https address, and {server} is none; name one with --server"
                )),
                None => Ok(None),
            };
        }
        let host = host(server).to_owned();
        let name = ServerName::try_from(host.clone())
            .map_err(|error| format!("--server {server}: no certificate can be for {host}: {error}"))?;
        Ok(Some(Connector {
            tls: Arc::new(self.config(server)?).into(),
            address: (host, server.port_u16().unwrap_or(443)),
            name,
        }))
    }

    fn config(&self, server: &Uri) -> Result<ClientConfig, String> {
        let authorities = authorities(self.ca.as_deref())?;
        if authorities.is_empty() {
            return Err(format!(
                "cannot trust {server}: this system has no certificates of authorities; name one with --tls-ca"
            ));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(authorities);
        let mut config = match (&self.certificate, &self.key) {
            (Some(chain), Some(key)) => config
                .with_client_auth_cert(
                    Pem::read("--tls-client-cert", chain)?.certificates("certificate")?,
                    private_key(key)?,
                )
                .map_err(|error| {
                    let (chain, key) = (chain.display(), key.display());
                    format!(
                        "--tls-client-cert {chain} and --tls-client-key {key} do not go together: {error}"
                    )
                })?,
            _ => config.with_no_client_auth(),
        };
        config.alpn_protocols.push(ALPN.into());
        Ok(config)
    }
}

fn host(server: &Uri) -> &str {
    server.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// Whether the server at an http address speaks TLS, so that http would fail again: it answers the beginning of a handshake with a record of
/// TLS. To HTTP/2 many servers answer nothing, and h2 reports an alert as a frame of an invalid size or a broken pipe.
pub(super) async fn is_expected(server: &Uri) -> bool {
    let mut answer = [0; 6];
    let asked = timeout(ACCEPT_TIMEOUT, async {
        let address = (host(server), server.port_u16().unwrap_or(80));
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&client_hello(host(server))?).await?;
        stream.read_exact(&mut answer).await
    });
    // An alert, or a record of the handshake with the server's first message.
    matches!(asked.await, Ok(Ok(_))) && matches!(answer, [21, 3, _, 0, 2, _] | [22, 3, .., 2])
}

/// The first message of a handshake.
fn client_hello(host: &str) -> io::Result<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name)
        .map_err(io::Error::other)?
        .write_tls(&mut hello)?;
    Ok(hello)
}

/// The system's authorities, and those in a file.
fn authorities(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(file) = file else {
        return Ok(store);
    };
    for certificate in Pem::read("--tls-ca", file)?.certificates("certificate")? {
        let added = store.add(certificate);
        added.map_err(|error| format!("--tls-ca: a certificate in {}: {error}", file.display()))?;
    }
    Ok(store)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = Pem::read("--tls-client-key", file)?;
    PrivateKeyDer::from_pem_slice(&pem.content).map_err(|error| pem.missing("private key", error))
}

#[derive(Clone)]
pub(super) struct Connector {
    tls: TlsConnector,
    address: (String, u16),
    name: ServerName<'static>,
}

impl Connector {
    /// Connects, and waits until the server has accepted the connection.
    pub(super) async fn connect(self) -> Result<TokioIo<TlsStream<TcpStream>>, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut stream = self.tls.connect(self.name, stream).await.map_err(with_advice)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(Box::new(Refused {
                cause: "HTTP/2 was not negotiated".into(),
                advice: NO_HTTP2,
            }));
        }
        // Nothing has been sent yet: a server that closes a connection with unread data resets it, and its alert could be lost.
        match timeout(ACCEPT_TIMEOUT, stream.fill_buf()).await {
            Ok(Ok([])) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(Err(error)) => Err(with_advice(error)),
            Ok(Ok(_)) | Err(_) => Ok(TokioIo::new(stream)),
        }
    }
}

/// TLS failed, and would fail again.
#[derive(Debug, thiserror::Error)]
#[error("{cause}; {advice}")]
pub(super) struct Refused {
    pub(super) cause: String,
    pub(super) advice: &'static str,
}

/// The error of a handshake, with advice unless it was the connection that failed.
fn with_advice(error: io::Error) -> Box<dyn Error + Send + Sync> {
    use CertificateError as Bad;
    use rustls::Error as E;

    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<E>()) else {
        return error.into();
    };
    let advice = match cause {
        E::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "the server's certificate is not from a trusted authority: name its authority with --tls-ca"
        }
        E::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "the server's certificate has other names: put one of them in --server"
        }
        E::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "is this machine's clock right?"
        }
        E::InvalidCertificate(_) => "the server needs another certificate",
        E::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server demands a certificate of its clients: name one with --tls-client-cert and --tls-client-key"
        }
        E::AlertReceived(AlertDescription::NoApplicationProtocol) => NO_HTTP2,
        // TLS 1.2 has no alert that says that a certificate is missing.
        E::AlertReceived(_) => {
            "the server refuses us: does it demand a certificate, or another one, of its clients? See --tls-client-cert"
        }
        E::InvalidMessage(_) => "the server speaks no TLS there: try an http address with --server",
        _ => "no TLS with this server",
    };
    Box::new(Refused {
        cause: cause.to_string(),
        advice,
    })
}
