//! The breaker: a source that refuses our address is left alone for a while.
//!
//! *What it believes.* HTTP 429 and a redirect to `/sorry/` are about the address, whoever's channel was asked for. A 403 is about the
//! channel, until another channel gets one too with no success in between. Then it is a *doubt*: good channels, which were found before
//! and are neither of the two, are asked at once, one after the other, and lookups go on meanwhile. If two of them get a 403 as well,
//! the source refuses us; if one answers, the 403s were the channels' own. Whoever has two forbidden channels thus costs a lookup and
//! closes nothing. Where no other good channel is known, the 403s that came are all the evidence that there is, and are believed.
//!
//! *How it ends.* After the pause one lookup goes out as the *probe*. Any answer that is no refusal proves that we are answered. A 403
//! of the probed channel alone proves nothing: its owner could have made it so, to keep the breaker open for as long as that channel
//! is picked. So another channel is probed at once, and only two in a row count as one more refusal. Nobody wins the probes with a
//! channel of theirs, for a probe asks for a good channel, which the owner of this state picks at random, and the next one for one that
//! another caller asked for (`src/youtube/guard/proven.rs`). The lookup of a channel
//! that was never found is no probe unless no good one is known. It could not close the breaker falsely (a refused address gets no
//! 404s), but a forbidden one could keep it open. What ends the pause need not end the doubling: only a success does that, so an
//! address that gets 404s and 429s in turn is asked less and less often.

use std::time::{Duration, Instant};

/// The first pause: YouTube says nothing of how long it wants to be left alone.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// The shortest: doubling a `Retry-After` of 0 would lead nowhere.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest: busy addresses are refused for hours, but the end of that should be noticed.
pub const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// For who comes while the probe is under way, or before one has begun: most are over by then.
const PROBE_TAKES: Duration = Duration::from_secs(1);

/// As what a redirect to `/sorry/` counts.
pub const TOO_MANY_REQUESTS: u16 = 429;

const FORBIDDEN: u16 = 403;

/// Refuses lookups while the source refuses us. `K` names a channel.
#[derive(Debug)]
pub struct Breaker<K> {
    state: State,
    /// Refusals that began or prolonged a pause since the last success: pauses double with each.
    refusals: u32,
    /// The last pause that was begun.
    pause: Duration,
    /// Channels that got a 403 since the last answer that was none: while closed since the last success, else in this round of probes.
    forbidden: [Option<K>; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Two channels got a 403: a good one is to be asked. Lookups go on.
    Doubtful {
        probing: bool,
    },
    /// No lookup until then; and from then on a probe.
    Open {
        until: Instant,
        status: u16,
    },
    /// The probe is under way.
    Probing {
        status: u16,
    },
}

/// What is known of the channel that is to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was found before.
    Proven,
    /// It was never found.
    Unproven {
        /// Another channel was, and is not among the [excluded](Breaker::excluded) ones.
        proven_known: bool,
    },
}

/// How a lookup may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// As ever.
    Ordinary,
    /// What becomes of it decides, so it has to be [reported](Breaker::report), even if it is as [`Report::Silent`].
    Probe,
}

/// A lookup that may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the source answered when it refused us.
    pub status: u16,
    /// When lookups may go on, if all is well then.
    pub retry_after: Duration,
}

/// What became of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A feed.
    Success,
    /// Any other answer that is no refusal: 404, 5xx, something that is no feed.
    Answered,
    /// HTTP 429 or a redirect to `/sorry/`: it has had enough of us.
    Refused {
        /// What it answered.
        status: u16,
        /// How long it wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// HTTP 403: it does not want to tell of this channel, or has had enough of us.
    Forbidden {
        /// How long it wants to be left alone, if it said so.
        retry_after: Option<Duration>,
        /// A good channel is known that is neither this one nor among the [excluded](Breaker::excluded) ones.
        proven_known: bool,
    },
    /// No answer.
    Silent,
}

/// What a report has changed: worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The source refuses us.
    Opened {
        /// What it answered.
        status: u16,
        /// For how long it is left alone at first.
        pause: Duration,
    },
    /// It answers again.
    Closed,
}

impl<K: Copy + Eq> Default for Breaker<K> {
    fn default() -> Self {
        Self {
            state: State::Closed,
            refusals: 0,
            pause: FIRST_PAUSE,
            forbidden: [None; 3],
        }
    }
}

impl<K: Copy + Eq> Breaker<K> {
    /// Whether [`Self::admit`] might let a lookup pass now.
    ///
    /// # Errors
    ///
    /// If the source refuses us, and it is not the time for a probe.
    pub fn check(&self, now: Instant) -> Result<(), Refused> {
        match self.state {
            State::Open { until, status } if now < until => Err(Refused {
                status,
                retry_after: until - now,
            }),
            State::Probing { status } => Err(Refused {
                status,
                retry_after: PROBE_TAKES,
            }),
            State::Closed | State::Doubtful { .. } | State::Open { .. } => Ok(()),
        }
    }

    /// Asks for leave to look `channel` up. If it is [`Role::Probe`], this is the lookup that decides.
    ///
    /// # Errors
    ///
    /// If the source refuses us, or if a probe is due and this is not the lookup for it.
    pub fn admit(&mut self, channel: K, standing: Standing, now: Instant) -> Result<Role, Refused> {
        self.check(now)?;
        let fits = standing != Standing::Unproven { proven_known: true }
            && !self.excluded().contains(&Some(channel));
        match self.state {
            State::Open { status, .. } if fits => {
                self.state = State::Probing { status };
                Ok(Role::Probe)
            }
            State::Open { status, .. } => Err(Refused {
                status,
                retry_after: PROBE_TAKES,
            }),
            State::Doubtful { probing: false } if fits && standing == Standing::Proven => {
                self.state = State::Doubtful { probing: true };
                Ok(Role::Probe)
            }
            State::Closed | State::Doubtful { .. } | State::Probing { .. } => Ok(Role::Ordinary),
        }
    }

    /// Whether a probe is due that nobody has begun: a good channel should be looked up now, which is not among the
    /// [excluded](Self::excluded) ones.
    #[must_use]
    pub fn probe_is_due(&self, now: Instant) -> bool {
        match self.state {
            State::Open { until, .. } => until <= now,
            State::Doubtful { probing } => !probing,
            State::Closed | State::Probing { .. } => false,
        }
    }

    /// When a probe will be due, if lookups are refused until then.
    #[must_use]
    pub fn open_until(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed | State::Doubtful { .. } | State::Probing { .. } => None,
        }
    }

    /// Channels that may not be probed: their 403 proves nothing more.
    #[must_use]
    pub fn excluded(&self) -> [Option<K>; 3] {
        self.forbidden
    }

    /// As metrics call it.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Closed | State::Doubtful { .. } => "closed",
            State::Open { .. } => "open",
            State::Probing { .. } => "probing",
        }
    }

    /// Takes in what became of a lookup of `channel`.
    pub fn report(&mut self, channel: K, role: Role, report: Report, now: Instant) -> Option<Change> {
        match report {
            Report::Success => self.succeeded(role),
            Report::Answered => self.answered(role),
            Report::Silent => self.silent(role, now),
            Report::Refused { status, retry_after } => self.refused(role, status, retry_after, now),
            Report::Forbidden {
                retry_after,
                proven_known,
            } => self.was_forbidden(channel, role, retry_after, proven_known, now),
        }
    }

    fn succeeded(&mut self, role: Role) -> Option<Change> {
        match self.state {
            // From before it opened: no evidence.
            State::Open { .. } | State::Probing { .. } if role == Role::Ordinary => return None,
            _ => {}
        }
        let change = self.close();
        self.refusals = 0;
        change
    }

    fn answered(&mut self, role: Role) -> Option<Change> {
        // A probe of a doubt that gets a 404 was answered, as much as one that ends a pause.
        (role == Role::Probe).then(|| self.close()).flatten()
    }

    fn close(&mut self) -> Option<Change> {
        let was = std::mem::replace(&mut self.state, State::Closed);
        self.forbidden = [None; 3];
        matches!(was, State::Open { .. } | State::Probing { .. }).then_some(Change::Closed)
    }

    fn silent(&mut self, role: Role, now: Instant) -> Option<Change> {
        match (role, self.state) {
            // As long as the last time: silence is no refusal.
            (Role::Probe, State::Probing { status }) => {
                self.forbidden = [None; 3];
                let until = now + self.pause;
                self.state = State::Open { until, status };
            }
            (Role::Probe, State::Doubtful { .. }) => self.state = State::Doubtful { probing: false },
            _ => {}
        }
        None
    }

    fn refused(
        &mut self,
        role: Role,
        status: u16,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<Change> {
        let asked = retry_after.map(|pause| pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        if let (Role::Ordinary, State::Open { until, status }) = (role, self.state) {
            // One of those that were under way. It may ask for longer than the first did, but counts no more.
            let until = until.max(now + asked.unwrap_or_default());
            self.state = State::Open { until, status };
            return None;
        }
        if let (Role::Ordinary, State::Probing { .. }) = (role, self.state) {
            return None;
        }
        let opened = !matches!(self.state, State::Probing { .. });
        let doublings = self.refusals.min(16);
        self.refusals = self.refusals.saturating_add(1);
        let first = asked.unwrap_or(FIRST_PAUSE);
        self.pause = first.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        self.forbidden = [None; 3];
        let until = now + self.pause;
        self.state = State::Open { until, status };
        let pause = self.pause;
        opened.then_some(Change::Opened { status, pause })
    }

    fn was_forbidden(
        &mut self,
        channel: K,
        role: Role,
        retry_after: Option<Duration>,
        proven_known: bool,
        now: Instant,
    ) -> Option<Change> {
        // How many channels have to get it until it is believed: of probes two, if there is another one to be probed.
        let (needed, next) = match (self.state, role) {
            (State::Closed, _) => (2, State::Closed),
            (State::Doubtful { .. }, Role::Probe) => (4, State::Doubtful { probing: false }),
            (State::Probing { status }, Role::Probe) => (2, State::Open { until: now, status }),
            // From before it opened, or beside a probe that will tell.
            _ => return None,
        };
        let mut count = self.forbidden.iter().flatten().count();
        if !self.forbidden.contains(&Some(channel)) {
            count += 1;
            if let Some(free) = self.forbidden.iter_mut().find(|slot| slot.is_none()) {
                *free = Some(channel);
            }
        }
        let closed = self.state == State::Closed;
        if count < needed && (closed || proven_known) {
            self.state = next;
            return None;
        }
        if closed && proven_known {
            self.state = State::Doubtful { probing: false };
            return None;
        }
        self.refused(role, FORBIDDEN, retry_after, now)
    }
}

#[cfg(test)]
mod tests;
