//! What `get` and `list` share: their flags, and `--direct`, which asks the sources in this process instead of a server.
//!
//! It calls the service of a server without a network in between, so that answers and errors are the same by construction.

use std::{sync::Arc, time::Duration};

use clap::{Arg, ArgMatches, Command, parser::ValueSource};
use tokio::sync::watch;
use tonic::Code;

use super::{
    InvalidFlags, Outcome,
    client::{self, Plaque, call_service},
    serve::Signals,
    sources::SourceArgs,
    values,
};
use crate::{
    grpc::{self, Callers, Limits, lifecycle::Stage},
    latest::Settings,
    proto::v1::LookupFailure,
    server::{self, Sources},
    telemetry::{self, Format},
};

/// For a few hundred channels, which is as many as one command asks for.
const CACHE_BYTES: u64 = 16 << 20;

/// Flags of `get` and `list`.
#[derive(clap::Args)]
#[group(id = "lookup")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: client::Args,

    /// The maximum age of an answer; 0s asks for one as new as the server allows (--min-refetch) [default: what the server calls fresh]
    #[arg(long, env = "PLAQUE_MAX_AGE", value_name = "DURATION", value_parser = values::duration)]
    pub(super) max_age: Option<Duration>,

    /// Ask YouTube from here, without a server. With --store file:PATH answers are remembered: one within --fresh-for is printed without a
    /// lookup, and the last one if the lookup fails
    #[arg(long, env = "PLAQUE_DIRECT")]
    direct: bool,

    #[command(flatten, next_help_heading = "Options of --direct")]
    sources: SourceArgs,
}

impl Args {
    /// Runs `ask` with a server or, with `--direct`, with the service of one. Ctrl-C and SIGTERM end that at once, but not
    /// before what it has found is saved.
    pub(super) async fn run(&self, ask: impl AsyncFnOnce(Plaque) -> Outcome) -> Outcome {
        if !self.direct {
            return ask(self.client.server.connect().await?).await;
        }
        // That a store was replaced, or cannot be reached, changes no answer of this run.
        let warnings = telemetry::filter("plaque::store=warn")?;
        let _log = telemetry::start(telemetry::Settings::log(Format::Pretty, warnings))?;
        let units = Arc::default();
        let mut upstream = self.sources.upstream().map_err(InvalidFlags)?;
        // Nobody else's lookups wait.
        upstream.pace.max_queue_wait = upstream.pace.max_queue_wait.max(self.client.server.timeout);
        let sources = self.sources.open(&upstream, &units)?;
        // Nobody is there later for whom an answer could be revalidated in the background.
        let policy = self.sources.policy(Duration::ZERO);
        let store = self.sources.open_store(&units, policy).await?;
        let settings = Settings {
            policy,
            cache_bytes: CACHE_BYTES,
            max_waiters: usize::MAX,
            canary: self.sources.canary.0,
            // There are no watches.
            watch_every: policy.fresh_for,
            watch_at_most: policy.fresh_for,
            max_watched: 0,
        };
        let (latest, resolver) = server::use_cases(Sources { store, ..sources }, settings, upstream.pace);
        let limits = Limits {
            deadline: self.client.server.timeout,
            ..Limits::default()
        };
        let (_stage, stages) = watch::channel(Stage::Serving);
        let callers = Arc::new(Callers::new(None));
        let service = grpc::service(
            Arc::clone(&latest),
            resolver,
            limits,
            callers,
            stages,
            Arc::default(),
        )?;
        let mut signals = Signals::new()?;
        let outcome = tokio::select! {
            outcome = ask(call_service(service)) => outcome,
            // As a shell reports a command that the signal has ended.
            signal = signals.next() => Ok(if signal == "SIGTERM" { 143 } else { 130 }.into()),
        };
        latest.close_store(server::STORE_CLOSE_TIMEOUT).await;
        outcome
    }

    /// Says what to do after the time limit: with `--direct`, no server completes the lookup.
    pub(super) fn explain(&self, why: &mut LookupFailure) {
        if self.direct && why.code == i32::from(Code::DeadlineExceeded) {
            let limit = humantime::format_duration(self.client.server.timeout);
            why.message = format!("no answer within {limit}; ask again, or with a longer --timeout");
            if let Some(status) = &mut why.status {
                status.message.clone_from(&why.message);
            }
        }
    }
}

/// Checks that flags for a server and flags for `--direct` are not mixed. Only on the command line, since the environment may have settings
/// of `plaque serve` and of other commands.
pub(super) fn check(command: &Command, flags: &ArgMatches) -> Result<(), String> {
    let Ok(Some(direct)) = flags.try_get_one("direct") else {
        return Ok(());
    };
    let others = "Options of --direct";
    let is_misplaced = |flag: &&Arg| match flag.get_id().as_str() {
        "address" | "ca" | "certificate" | "key" => *direct,
        _ => !direct && flag.get_help_heading() == Some(others),
    };
    let is_given = |flag: &&Arg| flags.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine);
    let misplaced = command.get_opts().filter(is_misplaced).find(is_given);
    let Some(flag) = misplaced.and_then(Arg::get_long) else {
        return Ok(());
    };
    Err(if *direct {
        format!("--{flag} is about a server, which --direct does without: give one of the two")
    } else {
        format!("--{flag} has no effect on a server; add --direct to look channels up without one")
    })
}
