//! The address of the store, and connecting to it.

use std::{fmt, str::FromStr};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo as _,
    ProtocolVersion, PushInfo, RedisResult, TlsCertificates, aio::MultiplexedConnection,
    cluster::ClusterClientBuilder, cluster_async::ClusterConnection,
};

/// The address of one server, or of some nodes of a cluster: `redis://`, `rediss://`, `redis-cluster://host,host` or
/// `rediss-cluster://host,host`.
#[derive(Clone, Debug)]
pub struct Address {
    nodes: Vec<ConnectionInfo>,
    cluster: bool,
}

/// Why a text is not an [`Address`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidAddress {
    /// It has another scheme.
    #[error("it begins with redis://, rediss:// (TLS), redis-cluster:// or rediss-cluster://")]
    Scheme,
    /// What follows the scheme is invalid.
    #[error(
        "after the scheme comes [user:password@]host[:port], of a cluster several hosts with commas between: {0}"
    )]
    Node(redis::RedisError),
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidAddress::Scheme)?;
        let (scheme, cluster) = match scheme {
            "redis" | "rediss" => (scheme, false),
            "redis-cluster" => ("redis", true),
            "rediss-cluster" => ("rediss", true),
            _ => return Err(InvalidAddress::Scheme),
        };
        let (secret, hosts) = match rest.rfind('@') {
            Some(at) => rest.split_at(at + 1),
            None => ("", rest),
        };
        let hosts: Vec<_> = if cluster {
            hosts.split(',').collect()
        } else {
            vec![hosts]
        };
        let nodes = hosts.into_iter().map(|host| {
            let node = format!("{scheme}://{secret}{host}").into_connection_info()?;
            // RESP3 delivers messages on the same connection as replies.
            let settings = node.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            Ok(node.set_redis_settings(settings))
        });
        let nodes = nodes.collect::<RedisResult<_>>().map_err(InvalidAddress::Node)?;
        Ok(Self { nodes, cluster })
    }
}

impl fmt::Display for Address {
    /// Omits user names and passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.addr().to_string()).collect();
        f.pad(&nodes.join(","))
    }
}

/// A connection to a server, or one to each node of a cluster. Clones share it, and their commands are pipelined.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Address {
    /// Connects. `on_push` is called with every push message.
    pub(super) async fn connect(
        &self,
        authorities: Option<Vec<u8>>,
        on_push: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
    ) -> RedisResult<Connection> {
        let certificates = authorities.map(|root| TlsCertificates {
            client_tls: None,
            root_cert: Some(root),
        });
        if self.cluster {
            let mut builder = ClusterClientBuilder::new(self.nodes.iter().cloned())
                .use_protocol(ProtocolVersion::RESP3)
                .push_sender(on_push);
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            return Ok(Connection::Cluster(
                builder.build()?.get_async_connection().await?,
            ));
        }
        let node = self.nodes[0].clone();
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(node, certificates)?,
            None => Client::open(node)?,
        };
        // The callers have their own time limits.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(on_push);
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(Connection::Server(connection))
    }
}

impl Connection {
    pub(super) async fn subscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        match self {
            Self::Server(connection) => connection.subscribe(channels).await,
            Self::Cluster(connection) => connection.subscribe(channels).await,
        }
    }

    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

#[cfg(test)]
mod tests;
