//! A circuit breaker: sends no lookups for a while to a source that refuses this address.
//!
//! *Evidence.* HTTP 429 and a redirect to `/sorry/` concern the address, whatever channel was asked for. A 403 concerns the channel, until
//! another channel gets one too with no success in between. Then the breaker is in *doubt*: proven channels, which were found before and
//! are neither of the two, are probed at once, one after the other, while lookups go on. If two of them get a 403 as well, the source
//! refuses the address; if one is answered, the 403s were the channels' own. So a caller with two forbidden channels costs a lookup and
//! opens nothing. If no other proven channel is known, the 403s are all the evidence there is, and are believed.
//!
//! *Recovery.* After the pause one lookup goes out as the *probe*. Any answer other than a refusal closes the breaker. A 403 of the probed
//! channel alone proves nothing: its owner could have caused it, to keep the breaker open while that channel is chosen. So another channel
//! is probed at once, and only two in a row count as one more refusal. No caller can win the probes with a channel of its own, since the
//! owner of this state picks a proven channel at random for each, and the next one of another caller (`src/youtube/guard/proven.rs`). The
//! lookup of a channel that was never found is a probe only if no proven one is known. It could not close the breaker falsely (a refused
//! address gets no 404s), but a forbidden one could keep it open. The pause can end without resetting its doubling: only a success does
//! that, so an address that gets 404s and 429s alternately is used less and less.

use std::time::{Duration, Instant};

/// The first pause: YouTube does not say how long to wait.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// The shortest pause: doubling a `Retry-After` of 0 would have no effect.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause: busy addresses are refused for hours, but the end of that should be noticed soon.
pub const MAX_PAUSE: Duration = Duration::from_hours(1);

/// The `retry_after` of lookups during a probe, or before it has begun: most probes are over by then.
const PROBE_DURATION: Duration = Duration::from_secs(1);

/// The status that stands for a redirect to `/sorry/`.
pub const TOO_MANY_REQUESTS: u16 = 429;

const FORBIDDEN: u16 = 403;

/// Refuses lookups while the source refuses this address. `K` identifies a channel.
#[derive(Debug)]
pub struct Breaker<K> {
    state: State,
    /// Refusals that began or prolonged a pause since the last success: each doubles the pause.
    refusals: u32,
    /// The last pause.
    pause: Duration,
    /// Channels that got a 403: while closed since the last success, otherwise in this round of probes.
    forbidden: [Option<K>; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Two channels got a 403: a proven one has to be probed. Lookups go on.
    Doubtful {
        probing: bool,
    },
    /// No lookup until then; from then on a probe.
    Open {
        until: Instant,
        status: u16,
    },
    /// The probe is in progress.
    Probing {
        status: u16,
    },
}

/// What is known of the channel to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was found before.
    Proven,
    /// It was never found.
    Unproven {
        /// Another channel was, and is not [excluded](Breaker::excluded).
        proven_known: bool,
    },
}

/// The role of an admitted lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No particular one.
    Ordinary,
    /// Its outcome decides, so it has to be [reported](Breaker::report), even if only as [`Report::Silent`].
    Probe,
}

/// A lookup that may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status with which the source refused the address.
    pub status: u16,
    /// When lookups may go on at the earliest.
    pub retry_after: Duration,
}

/// The outcome of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A feed.
    Success,
    /// Any other answer except a refusal: 404, 5xx, a response that is not a feed.
    Answered,
    /// HTTP 429 or a redirect to `/sorry/`: the source refuses this address.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The requested pause, if there was one.
        retry_after: Option<Duration>,
    },
    /// HTTP 403: the source refuses this channel, or this address.
    Forbidden {
        /// The requested pause, if there was one.
        retry_after: Option<Duration>,
        /// There is a proven channel other than this one and the [excluded](Breaker::excluded) ones.
        proven_known: bool,
    },
    /// No answer.
    Silent,
}

/// A change that is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The source refuses this address.
    Opened {
        /// The HTTP status.
        status: u16,
        /// The first pause.
        pause: Duration,
    },
    /// The source answers again.
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
    /// Whether [`Self::admit`] might admit a lookup now.
    ///
    /// # Errors
    ///
    /// If the breaker is open, and it is not time for a probe.
    pub fn check(&self, now: Instant) -> Result<(), Refused> {
        match self.state {
            State::Open { until, status } if now < until => Err(Refused {
                status,
                retry_after: until - now,
            }),
            State::Probing { status } => Err(Refused {
                status,
                retry_after: PROBE_DURATION,
            }),
            State::Closed | State::Doubtful { .. } | State::Open { .. } => Ok(()),
        }
    }

    /// Requests permission to look up `channel`. With [`Role::Probe`], this lookup decides.
    ///
    /// # Errors
    ///
    /// If the breaker is open, or if a probe is due and this lookup cannot be it.
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
                retry_after: PROBE_DURATION,
            }),
            State::Doubtful { probing: false } if fits && standing == Standing::Proven => {
                self.state = State::Doubtful { probing: true };
                Ok(Role::Probe)
            }
            State::Closed | State::Doubtful { .. } | State::Probing { .. } => Ok(Role::Ordinary),
        }
    }

    /// Whether a probe is due: a proven channel should be looked up now, other than the [excluded](Self::excluded) ones.
    #[must_use]
    pub fn probe_is_due(&self, now: Instant) -> bool {
        match self.state {
            State::Open { until, .. } => until <= now,
            State::Doubtful { probing } => !probing,
            State::Closed | State::Probing { .. } => false,
        }
    }

    /// Channels that must not be probed: their 403 proves nothing more.
    #[must_use]
    pub fn excluded(&self) -> [Option<K>; 3] {
        self.forbidden
    }

    /// The state's label in metrics.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Closed | State::Doubtful { .. } => "closed",
            State::Open { .. } => "open",
            State::Probing { .. } => "probing",
        }
    }

    /// Records the outcome of a lookup of `channel`.
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
            // The lookup began before the breaker opened: no evidence.
            State::Open { .. } | State::Probing { .. } if role == Role::Ordinary => return None,
            _ => {}
        }
        let change = self.close();
        self.refusals = 0;
        change
    }

    fn answered(&mut self, role: Role) -> Option<Change> {
        // In a doubt, too, a probe that gets a 404 was answered.
        (role == Role::Probe).then(|| self.close()).flatten()
    }

    fn close(&mut self) -> Option<Change> {
        let was = std::mem::replace(&mut self.state, State::Closed);
        self.forbidden = [None; 3];
        matches!(was, State::Open { .. } | State::Probing { .. }).then_some(Change::Closed)
    }

    fn silent(&mut self, role: Role, now: Instant) -> Option<Change> {
        match (role, self.state) {
            // The same pause again: silence is not a refusal.
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
        let asked = retry_after.map(|pause| pause.clamp(MIN_PAUSE, MAX_PAUSE));
        if let (Role::Ordinary, State::Open { until, status }) = (role, self.state) {
            // A lookup that began before the breaker opened. It may prolong the pause, but does not double it.
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
        self.pause = first.saturating_mul(1 << doublings).min(MAX_PAUSE);
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
        // How many channels have to get a 403 until it is believed: two probes, if there is another channel to probe.
        let (needed, next) = match (self.state, role) {
            (State::Closed, _) => (2, State::Closed),
            (State::Doubtful { .. }, Role::Probe) => (4, State::Doubtful { probing: false }),
            (State::Probing { status }, Role::Probe) => (2, State::Open { until: now, status }),
            // The lookup began before the breaker opened, or a probe will decide.
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
