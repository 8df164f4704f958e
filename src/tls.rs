//! TLS: who we are, who may come in, and the same anew when the files change.

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

/// What HTTP/2 is called in a handshake (ALPN).
const HTTP2: &[u8] = b"h2";

/// What HTTP/1.1 is called.
const HTTP1: &[u8] = b"http/1.1";

/// What a port speaks behind TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// gRPC over HTTP/2, and gRPC-Web over HTTP/1.1 if that is on.
    Grpc,
    /// HTTP/1.1 alone.
    Http1,
}

/// How often the files are looked at. They change every few weeks, and are valid for a while before and after.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// TLS sessions that are remembered: rustls's own number.
const SESSIONS: usize = 256;

/// Where the certificates are, all in PEM, and what is spoken behind them.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate, followed by those between it and its authority.
    pub cert: PathBuf,
    /// The key of the former.
    pub key: PathBuf,
    /// The authorities of clients. If there are any, a client has to show a certificate of theirs.
    pub client_ca: Option<PathBuf>,
    /// Whether clients of gRPC may ask for HTTP/1.1, too: browsers do, for gRPC-Web.
    pub http1: bool,
}

/// The files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("cannot read {}: {why}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// One holds something else.
    #[error("{} holds no {what} in PEM format", file.display())]
    Missing {
        /// Which.
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// They do not go together, or are of a kind that is not known.
    #[error("the certificates cannot be used: {0}")]
    Unusable(String),
}

/// TLS as the files had it when they were last good.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// What was read last, good or bad.
    read: Contents,
    configs: Configs,
}

/// The same certificates for each protocol: only what is agreed upon in the handshake differs.
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
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read, or they cannot be used.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let read = read(&files)?;
        let configs = configure(&files, &read)?;
        Ok(Self {
            files,
            current: Mutex::new(Current { read, configs }),
        })
    }

    /// Reads the files again, for connections from now on. Says whether they have changed. Those of before are still used if the
    /// new ones cannot be.
    ///
    /// # Errors
    ///
    /// If the files have changed, and cannot be used.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = read(&self.files)?;
        if self.current.lock().read == read {
            return Ok(false);
        }
        let configs = configure(&self.files, &read);
        let mut current = self.current.lock();
        current.read = read;
        current.configs = configs?;
        Ok(true)
    }

    /// Reloads when the files change, which is looked at now and then and at each of `hangups`. Never ends.
    pub async fn keep_current(&self, hangups: impl Stream<Item = ()>) {
        let looks = IntervalStream::new(interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY)).map(drop);
        let mut looks = pin!(looks.merge(hangups));
        while looks.next().await.is_some() {
            match self.reload() {
                Ok(true) => tracing::info!("TLS certificates reloaded"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "TLS certificates not reloaded; the former ones stay"),
            }
        }
    }

    /// The handshake, after which `protocol` is spoken.
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
            // Without ALPN it was always HTTP/1.1.
            (Protocol::Grpc, Some(HTTP2)) | (Protocol::Http1, Some(HTTP1) | None) => Ok(stream),
            (Protocol::Grpc, Some(HTTP1)) if self.files.http1 => Ok(stream),
            // A client that does not ask for any protocol could mean any.
            (Protocol::Grpc, _) => Err(io::Error::other("the client does not ask for HTTP/2 (ALPN h2)")),
            (Protocol::Http1, _) => Err(io::Error::other("the client does not ask for HTTP/1.1")),
        }
    }

    /// Whether clients have to show a certificate.
    pub(crate) fn knows_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }
}

fn read(files: &Files) -> Result<Contents, TlsError> {
    let read = |file: &Path| {
        fs::read(file).map_err(|why| TlsError::Unreadable {
            file: file.to_owned(),
            why,
        })
    };
    Ok(Contents {
        cert: read(&files.cert)?,
        key: read(&files.key)?,
        client_ca: files.client_ca.as_deref().map(read).transpose()?,
    })
}

fn configure(files: &Files, read: &Contents) -> Result<Configs, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(&read.key).map_err(|_| missing(&files.key, "private key"))?;
    let clients: Arc<dyn ClientCertVerifier> = match (&files.client_ca, &read.client_ca) {
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
        .with_single_cert(certificates(&files.cert, &read.cert)?, key)
        .map_err(unusable)?;
    let mut http1 = config.clone();
    // A session of one port is none of the other's.
    http1.session_storage = ServerSessionMemoryCache::new(SESSIONS);
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
