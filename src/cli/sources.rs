//! What `plaque serve` and `--direct` share: the flags of the sources and of the store, and what these open.

mod upstream_flags;

use std::{
    error::Error,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::RootCertStore;
use tokio::sync::oneshot;

use self::upstream_flags::UpstreamArgs;
use super::{InvalidFlags, pem::Pem, show, values};
use crate::{
    config::{self, Canary, StoreAddress},
    latest::Policy,
    server::Sources,
    store::{
        Store, StoredUnits,
        file::{Ages, File},
        redis::{self, Redis},
    },
    upstream::{Fallback, NameSource},
    video::Source,
    youtube::{
        self, YouTube,
        data_api::{DataApi, SharedUnits},
        pages::Pages,
    },
};

/// The part of `--upstream-timeout` for a source that has others behind it: 2 s by default, a few times what a feed takes. Callers often wait for 5 s.
const SHARE: u32 = 5;

/// The least of that, if `--upstream-timeout` is not less itself.
const LEAST_SHARE: Duration = Duration::from_secs(2);

/// Flags of the sources and the store, and of how long what they have is used.
#[derive(clap::Args)]
pub(super) struct SourceArgs {
    #[command(flatten)]
    upstream: UpstreamArgs,

    /// The maximum age of an answer that is given without a lookup
    #[arg(long, env = "PLAQUE_FRESH_FOR", default_value = "60s", value_name = "DURATION", value_parser = values::duration)]
    fresh_for: Duration,

    /// The maximum age of an answer that is given when lookups fail. May be less than --fresh-for, even 0s: an answer that needs no lookup is given
    /// in any case
    #[arg(long, env = "PLAQUE_STALE_IF_ERROR", default_value = "7d", value_name = "DURATION", value_parser = values::duration)]
    stale_if_error: Duration,

    /// How long a channel that was never found is cached as not found; doubles with each repeat, up to 15m
    #[arg(long, env = "PLAQUE_NEGATIVE_FOR", default_value = "30s", value_name = "DURATION", value_parser = values::duration)]
    negative_for: Duration,

    /// The least max_age: a caller who asks for a newer answer gets one of up to this age. Does not apply to freshness and polls
    #[arg(long, env = "PLAQUE_MIN_REFETCH", default_value = "5s", value_name = "DURATION", value_parser = values::duration)]
    min_refetch: Duration,

    /// An existing channel that is looked up, at most once a minute, if it is unclear whether a 404 means anything. By default YouTube's
    /// own; `none` disables these lookups
    #[arg(long, env = "PLAQUE_CANARY", default_value = config::CANARY, value_name = "CHANNEL_ID", value_parser = config::canary)]
    pub(super) canary: Canary,

    /// A store of cached channels that outlives this process: file:PATH, for a restart; or shared by replicas, which then look a channel up
    /// once among them: redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, redis-cluster://HOST,HOST [default: none]
    #[arg(long, env = "PLAQUE_STORE", hide_env_values = true, value_name = "ADDRESS", value_parser = config::store)]
    pub(super) store: Option<StoreAddress>,

    /// The maximum length of the file; a sixth of it is for channels (about 2.4 KiB each), of which those that were looked up longest ago
    /// are evicted
    #[arg(long, env = "PLAQUE_STORE_BYTES", default_value = "1GiB", value_name = "SIZE", value_parser = values::bytes, requires = "store")]
    store_bytes: u64,

    /// The prefix of all keys in Redis; instances with the same prefix share answers
    #[arg(
        long,
        env = "PLAQUE_STORE_PREFIX",
        default_value = "plaque",
        value_name = "PREFIX",
        requires = "store"
    )]
    store_prefix: redis::Prefix,

    /// The time limit of an operation of the store; if one takes longer, plaque continues without the store until that works again
    #[arg(long, env = "PLAQUE_STORE_TIMEOUT", default_value = "250ms", value_name = "DURATION", value_parser = values::time_limit, requires = "store")]
    store_timeout: Duration,

    /// Certificates of authorities to trust instead of the system's, in PEM: for a store at rediss:// with a private CA
    #[arg(long, env = "PLAQUE_STORE_CA", value_name = "FILE", requires = "store")]
    store_ca: Option<PathBuf>,
}

impl SourceArgs {
    /// The settings of the upstream.
    pub(super) fn upstream(&self) -> Result<youtube::Settings, String> {
        self.upstream.settings()
    }

    /// The most lookups of feeds at one time.
    pub(super) fn lookups(&self, upstream: &youtube::Settings) -> usize {
        upstream.pace.concurrency.get() * self.upstream.feeds()
    }

    pub(super) fn policy(&self, stale_while_revalidate: Duration) -> Policy {
        Policy {
            fresh_for: self.fresh_for,
            stale_while_revalidate,
            stale_if_error: self.stale_if_error,
            negative_for: self.negative_for,
            min_refetch: self.min_refetch,
        }
    }

    /// The sources, without the store: `upstream`, then the mirrors, then the YouTube Data API. Names are resolved by the feed, the API,
    /// and pages.
    pub(super) fn open(
        &self,
        upstream: &youtube::Settings,
        units: &Arc<StoredUnits>,
    ) -> Result<Sources, Box<dyn Error>> {
        let (mirrors, data_api) = (self.upstream.mirrors()?, self.upstream.data_api());
        let mut behind = mirrors.len() + usize::from(data_api.is_some());
        let youtube = Arc::new(YouTube::new(within_share(upstream, behind))?);
        let mut names: Vec<Arc<dyn NameSource>> = vec![Arc::clone(&youtube) as _];
        let (mut fallbacks, mut pages) = (vec![], None);
        for mirror in mirrors {
            behind -= 1;
            let upstream = Arc::new(YouTube::new(within_share(&mirror, behind))?);
            let source = Source::Mirror;
            fallbacks.push(Fallback { source, upstream });
        }
        if let Some(settings) = data_api {
            tell_of_wait(&settings.key_file);
            // A core dump would contain the key.
            rlimit::setrlimit(rlimit::Resource::CORE, 0, 0)?;
            let shared = self
                .store
                .is_some()
                .then(|| Arc::clone(units) as Arc<dyn SharedUnits>);
            let api = Arc::new(DataApi::open(settings, upstream, shared)?);
            names.push(Arc::clone(&api) as _);
            pages = Some(Arc::clone(&api) as _);
            fallbacks.push(Fallback {
                source: Source::DataApi,
                upstream: api,
            });
        }
        names.push(Arc::new(Pages::open(self.upstream.pages(), upstream)?));
        Ok(Sources {
            upstream: youtube,
            fallbacks,
            pages,
            names,
            store: None,
        })
    }

    /// The store, if there is one; `units` are counted there from then on. In a file, entries dated in the future get the policy's unknown
    /// age.
    pub(super) async fn open_store(
        &self,
        units: &StoredUnits,
        policy: Policy,
    ) -> Result<Option<Arc<dyn Store>>, InvalidFlags> {
        let authorities = self.store_ca.as_deref().map(store_authorities);
        let authorities = authorities.transpose().map_err(InvalidFlags)?;
        let store: Arc<dyn Store> = match self.store.clone() {
            None => return Ok(None),
            Some(StoreAddress::File(path)) => {
                let unusable = |error: &dyn Display| InvalidFlags(format!("--store: {error}"));
                let (bytes, budget, ages) = (
                    self.store_bytes,
                    self.store_timeout,
                    Ages::new(policy.unknown_age()),
                );
                let (done, opened) = oneshot::channel();
                // Reads the whole file, which takes seconds if it is large. The end of the program does not wait for the thread.
                let opening = thread::Builder::new().name("store-open".into()).spawn(move || {
                    let _ = done.send(File::open(&path, bytes, budget, ages));
                });
                opening.map_err(|error| unusable(&error))?;
                let opened = opened.await.map_err(|error| unusable(&error))?;
                Arc::new(opened.map_err(|error| unusable(&error))?)
            }
            Some(StoreAddress::Redis(address)) => {
                let settings = redis::Settings {
                    prefix: self.store_prefix.clone(),
                    budget: self.store_timeout,
                    keep_for: policy.keep_for(),
                    authorities,
                    ..redis::Settings::new(address)
                };
                Arc::new(Redis::start(settings).await)
            }
        };
        let _ = units.0.set(Arc::clone(&store));
        Ok(Some(store))
    }
}

/// Says that plaque waits if the file of the key is a FIFO, which blocks until somebody writes the key to it.
fn tell_of_wait(key_file: &Path) {
    if fs::metadata(key_file).is_ok_and(|file| !file.is_file()) {
        let file = key_file.display();
        let waiting =
            format!("--youtube-api-key-file: {file} is no regular file; waiting until it has the key");
        if tracing::dispatcher::has_been_set() {
            tracing::warn!("{waiting}");
        } else {
            show::print_error(&waiting);
        }
    }
}

/// A source with so many others `behind` it gets a part of the time, if there are any, so that callers still wait when the last one answers.
fn within_share(settings: &youtube::Settings, behind: usize) -> youtube::Settings {
    let time_limit = settings.time_limit;
    youtube::Settings {
        time_limit: match behind {
            0 => time_limit,
            _ => (time_limit / SHARE).max(LEAST_SHARE).min(time_limit),
        },
        ..settings.clone()
    }
}

/// Reads and checks the authorities of the store: with invalid ones it would never connect.
fn store_authorities(file: &Path) -> Result<Vec<u8>, String> {
    let pem = Pem::read("--store-ca", file)?;
    let mut store = RootCertStore::empty();
    for certificate in pem.certificates("authority")? {
        let added = store.add(certificate);
        added.map_err(|error| pem.missing("authority", error))?;
    }
    Ok(pem.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_others_behind_it_gets_a_part_of_the_time() {
        let of = |seconds, behind| {
            let settings = youtube::Settings {
                time_limit: Duration::from_secs(seconds),
                ..youtube::Settings::new(config::upstream_url(config::YOUTUBE).expect("an address"))
            };
            within_share(&settings, behind).time_limit.as_secs()
        };
        for (limit, behind, expected) in [
            (10, 0, 10),
            (10, 1, 2),
            (10, 3, 2),
            (30, 1, 6),
            (2, 1, 2),
            (1, 1, 1),
            (1, 0, 1),
        ] {
            assert_eq!(of(limit, behind), expected, "{limit} s, {behind} behind");
        }
    }
}
