//! TLS of all ports: loads certificates and keys, verifies clients, and reloads the files when they change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ServerSessionMemoryCache, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    net::TcpStream,
    time::{Instant, interval_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{Stream, StreamExt as _, wrappers::IntervalStream};

/// The ALPN protocol ID of HTTP/2.
const HTTP2: &[u8] = b"h2";

/// The ALPN protocol ID of HTTP/1.1.
const HTTP1: &[u8] = b"http/1.1";

/// The application protocol of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// gRPC over HTTP/2, and gRPC-Web over HTTP/1.1 if enabled.
    Grpc,
    /// HTTP/1.1 only.
    Http1,
}

/// How often the files are checked for changes. They change every few weeks, with overlapping periods of validity.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Cached TLS sessions of each protocol; rustls's default.
const CACHED_SESSIONS: usize = 256;

/// The PEM files of a server, and its protocols.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate, followed by intermediate certificates.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The certificate authorities of clients. If set, clients without a certificate from one of these are rejected.
    pub client_ca: Option<PathBuf>,
    /// Whether the gRPC port also accepts HTTP/1.1, for gRPC-Web from browsers.
    pub http1: bool,
}

/// The reason for which the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file lacks its certificate or key.
    #[error("{} holds no {what} in PEM format", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// What it should contain.
        what: &'static str,
    },
    /// The certificate and the key do not match, or their type is not supported.
    #[error("the certificates cannot be used: {0}")]
    Unusable(String),
}

/// The TLS configuration from the last valid version of the files.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// What was read last, valid or not.
    contents: Contents,
    configs: Configs,
}

/// One configuration for each protocol. They differ only in ALPN.
#[derive(Debug)]
struct Configs {
    grpc: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
}

#[derive(Debug, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Loads the files.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or the files cannot be used.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let contents = read(&files)?;
        let configs = configure(&files, &contents)?;
        Ok(Self {
            files,
            current: Mutex::new(Current { contents, configs }),
        })
    }

    /// Reloads the files for new connections. Returns whether they have changed. If the new ones cannot be used, the previous configuration
    /// stays.
    ///
    /// # Errors
    ///
    /// If the files have changed and cannot be used.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let contents = read(&self.files)?;
        if self.current.lock().contents == contents {
            return Ok(false);
        }
        let configs = configure(&self.files, &contents);
        let mut current = self.current.lock();
        current.contents = contents;
        current.configs = configs?;
        Ok(true)
    }

    /// Reloads the files when they have changed. Checks them periodically and at each of `hangups`. Never returns.
    pub async fn reload_on_change(&self, hangups: impl Stream<Item = ()>) {
        let ticks = IntervalStream::new(interval_at(Instant::now() + POLL_INTERVAL, POLL_INTERVAL));
        let mut checks = pin!(ticks.map(drop).merge(hangups));
        while checks.next().await.is_some() {
            match self.reload() {
                Ok(true) => tracing::info!("TLS certificates reloaded"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "TLS certificates not reloaded; the old ones stay"),
            }
        }
    }

    /// Performs the handshake for `protocol`.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        protocol: Protocol,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = {
            let current = self.current.lock();
            Arc::clone(match protocol {
                Protocol::Grpc => &current.configs.grpc,
                Protocol::Http1 => &current.configs.http1,
            })
        };
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        match (protocol, stream.get_ref().1.alpn_protocol()) {
            // A client without ALPN uses HTTP/1.1.
            (Protocol::Grpc, Some(HTTP2)) | (Protocol::Http1, Some(HTTP1) | None) => Ok(stream),
            (Protocol::Grpc, Some(HTTP1)) if self.files.http1 => Ok(stream),
            // Nor may it be absent, since the client could speak any protocol.
            (Protocol::Grpc, _) => Err(io::Error::other("the client does not ask for HTTP/2 (ALPN h2)")),
            (Protocol::Http1, _) => Err(io::Error::other("the client does not ask for HTTP/1.1")),
        }
    }

    /// Whether clients without a certificate are rejected.
    pub(crate) fn requires_client_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }
}

fn read(files: &Files) -> Result<Contents, TlsError> {
    let read = |file: &Path| {
        fs::read(file).map_err(|error| TlsError::Unreadable {
            file: file.to_owned(),
            error,
        })
    };
    Ok(Contents {
        cert: read(&files.cert)?,
        key: read(&files.key)?,
        client_ca: files.client_ca.as_deref().map(read).transpose()?,
    })
}

fn configure(files: &Files, contents: &Contents) -> Result<Configs, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|_| missing(&files.key, "private key"))?;
    let clients: Arc<dyn ClientCertVerifier> = match (&files.client_ca, &contents.client_ca) {
        (Some(file), Some(pem)) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(file, pem)? {
                roots.add(authority).map_err(unusable)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
            verifier.build().map_err(unusable)?
        }
        _ => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&files.cert, &contents.cert)?, key)
        .map_err(unusable)?;
    let mut http1 = config.clone();
    // A session of one port must not be resumed on the other.
    http1.session_storage = ServerSessionMemoryCache::new(CACHED_SESSIONS);
    http1.alpn_protocols = vec![HTTP1.into()];
    config.alpn_protocols = vec![HTTP2.into()];
    if files.http1 {
        config.alpn_protocols.push(HTTP1.into());
    }
    Ok(Configs {
        grpc: Arc::new(config),
        http1: Arc::new(http1),
    })
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(missing(file, "certificate")),
    }
}

fn missing(file: &Path, what: &'static str) -> TlsError {
    TlsError::Missing {
        file: file.to_owned(),
        what,
    }
}

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}
