//! The stock service on one current-thread runtime per core, which shows the cost of a call without wake-ups across threads.

use std::{
    error::Error,
    net::{TcpListener, TcpStream},
    thread,
};

use clap::Parser as _;
use peers::{
    block_on, cores,
    service::{self, Args, Hello},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tonic::transport::Server;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Command { args } = Command::parse();
    let service = service::serving(Hello(args.answer()?));
    // Not SO_REUSEPORT, whose hash distributes ten connections to two listeners as 7 and 3, or worse, in a third of all cases.
    let listener = TcpListener::bind(args.listen)?;
    let workers: Vec<_> = (0..cores())
        .map(|_| {
            // The worker's new connections. It runs until the process ends.
            let (handover, arriving) = mpsc::unbounded_channel::<TcpStream>();
            let server = Server::builder().add_service(service.clone());
            thread::spawn(move || {
                let incoming = UnboundedReceiverStream::new(arriving).map(|stream| {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    tokio::net::TcpStream::from_std(stream)
                });
                block_on(server.serve_with_incoming(incoming))
            });
            handover
        })
        .collect();
    service::ready("bare", listener.local_addr()?);
    for (stream, worker) in listener.incoming().zip(workers.iter().cycle()) {
        worker.send(stream?)?;
    }
    Ok(())
}
