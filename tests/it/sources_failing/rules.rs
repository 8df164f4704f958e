//! The rules of sources, written down once more: which of them are asked, and what of that is believed.

use plaque::{latest::LookupError, upstream::UpstreamError, video::Source};

use crate::{sources_failing::LIMIT, stores::feed};

/// What a source does with a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// Shows all uploads.
    Current,
    /// Shows all but the newest, and what was known of them before it.
    Behind,
    /// Shows no upload.
    Empty,
    NotFound,
    /// Only the Data API says so for certain.
    NoSuchChannel,
    Refuses,
    Unavailable,
    Unreachable,
    Malformed,
    Overloaded,
    Hangs,
    Panics,
}

use Behavior::{
    Behind, Current, Empty, Hangs, Malformed, NoSuchChannel, NotFound, Overloaded, Panics, Refuses,
    Unavailable, Unreachable,
};

impl Behavior {
    /// How many uploads it shows of `all`.
    pub fn shows(self, all: usize) -> Option<usize> {
        match self {
            Current => Some(all),
            Behind => Some((all - 1).max(1)),
            Empty => Some(0),
            _ => None,
        }
    }

    /// The error of a lookup that shows none.
    pub fn error(self) -> UpstreamError {
        match self {
            Current | Behind | Empty => unreachable!("no error"),
            NotFound => UpstreamError::NotFound,
            NoSuchChannel => UpstreamError::NoSuchChannel,
            Refuses => UpstreamError::RateLimited(429),
            Unavailable => UpstreamError::Status(503),
            Unreachable => UpstreamError::Unreachable("refused".into()),
            Malformed => UpstreamError::Malformed("no XML".into()),
            Overloaded => UpstreamError::Busy,
            Hangs => UpstreamError::TimedOut(LIMIT),
            Panics => UpstreamError::Panicked,
        }
    }
}

/// How a lookup ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many uploads are believed, of that source.
    Found(usize, Source),
    Failed(UpstreamError),
}

/// What a lookup by `behaviors` ends with, and how many of them are asked, if `known` uploads were believed
/// before, the newest of which the feed may not list yet.
pub fn rules(
    behaviors: &[(Source, Behavior)],
    all: usize,
    known: Option<usize>,
    is_unlisted: bool,
) -> (Outcome, usize) {
    // An older snapshot is not believed at first.
    let believed = |shown, source| match known {
        Some(known) if shown < known => Outcome::Failed(UpstreamError::SuspectSnapshot),
        _ => Outcome::Found(shown, source),
    };
    let (_, first) = behaviors[0];
    let lags = is_unlisted && first.shows(all) < known;
    if let Some(shown) = first.shows(all)
        && !lags
    {
        return (believed(shown, Source::Feed), 1);
    }
    let has_api = behaviors.iter().any(|(source, _)| *source == Source::DataApi);
    let error = match first {
        Behind | Empty => UpstreamError::SuspectSnapshot,
        first => first.error(),
    };
    let error = match error {
        // One channel is no spell.
        UpstreamError::NotFound if known.is_some() => UpstreamError::Status(404),
        error => error,
    };
    let helps = match error {
        UpstreamError::Busy => false,
        UpstreamError::NotFound => has_api,
        _ => true,
    };
    if !helps {
        return (Outcome::Failed(error), 1);
    }
    for (index, (source, behavior)) in behaviors.iter().enumerate().skip(1) {
        let outcome = match (source, behavior, behavior.shows(all)) {
            (Source::Mirror, _, Some(shown)) if shown > 0 && Some(shown) >= known => {
                Outcome::Found(shown, Source::Mirror)
            }
            // The failure is that of the feed.
            (Source::DataApi, NoSuchChannel, _) if lags => continue,
            (Source::DataApi, _, Some(shown)) => believed(shown, Source::DataApi),
            (Source::DataApi, NoSuchChannel, _) => Outcome::Failed(UpstreamError::NoSuchChannel),
            _ => continue,
        };
        return (outcome, index + 1);
    }
    (Outcome::Failed(error), behaviors.len())
}

/// The reply after `outcome`: the answer, or the last one with a mark.
pub fn reply(outcome: &Outcome, known: Option<usize>) -> String {
    let none = LookupError::NoUploads {
        channel: feed().channel,
        kind: None,
    };
    match (outcome, known) {
        (Outcome::Found(0, _), _) | (Outcome::Failed(_), Some(0)) => none.to_string(),
        (Outcome::Found(shown, source), _) => format!("{shown} of {}", source.name()),
        (Outcome::Failed(_), Some(known)) => format!("{known}, stale"),
        (Outcome::Failed(UpstreamError::NotFound | UpstreamError::NoSuchChannel), None) => {
            LookupError::ChannelNotFound(feed().channel).to_string()
        }
        (Outcome::Failed(error), None) => error.to_string(),
    }
}

/// Whether lookups of a source count as failing after this one, which did before it or not.
pub fn is_failing(
    source: Source,
    behavior: Behavior,
    all: usize,
    known: Option<usize>,
    before: bool,
) -> bool {
    match (source, behavior) {
        // It says nothing of the source.
        (_, Overloaded) | (Source::Feed, NotFound) => before,
        (_, NotFound) if known.is_none() => before,
        (Source::Mirror, Behind) if behavior.shows(all) < known => before,
        (Source::Mirror, Empty) => true,
        _ => behavior.shows(all).is_none() && behavior != NoSuchChannel,
    }
}
