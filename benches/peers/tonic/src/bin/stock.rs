//! The stock service: a tonic hello world with tonic's and tokio's defaults.

use std::error::Error;

use clap::Parser as _;
use peers::service::{self, Args, Hello};
use tonic::transport::{Server, server::TcpIncoming};

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Command { args } = Command::parse();
    let server = Server::builder().add_service(service::serving(Hello(args.answer()?)));
    // Like `serve`, which does not expose the port.
    let incoming = TcpIncoming::bind(args.listen)?.with_nodelay(Some(true));
    service::ready("stock", incoming.local_addr()?);
    Ok(server.serve_with_incoming(incoming).await?)
}
