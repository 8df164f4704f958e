//! `plaque health`: whether a server serves, for images that have no shell.

use tokio::time::timeout;
use tonic::Request;

use super::{
    Outcome,
    client::{ServerArgs, failure, retry},
    exit::{Exit, Failed},
    show,
};
use crate::proto::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Asks a server whether it serves (grpc.health.v1), and prints its status: one try, without retries.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The service, such as plaque.v1.LatestVideo [default: the whole server]
    #[arg(
        long,
        env = "PLAQUE_SERVICE",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    service: String,

    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(args: Args) -> Outcome {
    // Docker reserves all codes but 0 and 1.
    let unhealthy = |message| Failed {
        message,
        exit: Exit::Failure,
    };
    let asked = timeout(args.server.timeout, async {
        let channel = args.server.channel().await;
        let channel = channel.map_err(|failed| Failed {
            exit: failed.exit.max(Exit::Failure),
            ..failed
        })?;
        let service = args.service.clone();
        let request = Request::new(HealthCheckRequest { service });
        let checked = HealthClient::new(channel).check(request).await;
        match args.server.checked(checked).await {
            Ok(answer) => Ok(answer),
            Err(status) => Err(unhealthy(match retry::connection_error(&status) {
                Some(cause) => args.server.unreachable(cause).message,
                None => show::reason(&failure(&status)),
            })),
        }
    });
    let asked = asked.await;
    let answer = asked.map_err(|_| unhealthy(args.server.late().message().to_owned()))??;
    let status = answer.into_inner().status();
    show::line(status.as_str_name())?;
    let exit = if status == ServingStatus::Serving {
        Exit::Success
    } else {
        Exit::Failure
    };
    Ok(exit.into())
}
