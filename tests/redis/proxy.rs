//! A proxy in front of a server, which can be redirected or answer by itself.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// Stops when it is dropped, except for connections, which end with their clients.
pub struct Proxy {
    port: u16,
    way: Arc<Mutex<Way>>,
    accepting: AbortHandle,
}

#[derive(Clone)]
struct Way {
    /// The server's port for new connections.
    server: u16,
    /// The bytes that replace its replies, if any.
    instead: Option<Vec<u8>>,
}

impl Proxy {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let way = Arc::new(Mutex::new(Way {
            server,
            instead: None,
        }));
        let shown = Arc::clone(&way);
        // Ended by the drop.
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                tokio::spawn(lead(client, Arc::clone(&shown)));
            }
        });
        Self {
            port,
            way,
            accepting: accepting.abort_handle(),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Leads new connections to that server.
    pub fn lead_to(&self, server: u16) {
        self.way.lock().server = server;
    }

    /// Replies with this to any command from now on; with `None`, passes on the server's replies.
    pub fn answer(&self, instead: Option<&[u8]>) {
        self.way.lock().instead = instead.map(Into::into);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Forwards one connection until either end closes it.
async fn lead(mut client: TcpStream, way: Arc<Mutex<Way>>) -> std::io::Result<()> {
    let server = way.lock().server;
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut asked, mut answered) = ([0; 1 << 14], [0; 1 << 14]);
    loop {
        let (length, from_client) = tokio::select! {
            length = client.read(&mut asked) => (length?, true),
            length = server.read(&mut answered) => (length?, false),
        };
        if length == 0 {
            return Ok(());
        }
        let instead = way.lock().instead.clone();
        match (instead, from_client) {
            (None, true) => server.write_all(&asked[..length]).await?,
            (None, false) => client.write_all(&answered[..length]).await?,
            (Some(instead), true) => client.write_all(&instead).await?,
            (Some(_), false) => {}
        }
    }
}
