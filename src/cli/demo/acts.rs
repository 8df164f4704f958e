//! The acts of the demo: crowds, what must come of them, and how they are told.

use std::{
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    BACKOFF, BUG, CALLERS, COLD, HANGING, IMPATIENCE, IMPATIENT, PACE, SPELL, Stage,
    crowd::{Counts, Crowd},
    report::{Act, Row},
};

impl Stage {
    pub(super) async fn thundering_herd(&self) -> Result<Vec<Row>, Box<dyn Error>> {
        let act = Act {
            title: "a cold channel",
            sentence: "1,000 callers ask at once for a channel that nobody has asked for before: they share one lookup.",
            without: "",
        };
        let counts = self.send(act.title, Self::crowd(COLD)?).await?;
        let holds = counts.lookups == 1 && counts.answered == CALLERS;
        Ok(vec![finish_act(act, counts, holds)?])
    }

    pub(super) async fn impatient_callers(&self) -> Result<Vec<Row>, Box<dyn Error>> {
        let act = Act {
            title: "impatient callers",
            sentence: "A caller each millisecond gives up after 40 ms: the lookup continues, and serves all who come after it.",
            without: "nobody answered",
        };
        let impatient = Crowd {
            deadline: IMPATIENCE,
            pace: PACE,
            ..Self::crowd(IMPATIENT)?
        };
        let counts = self.send(act.title, impatient).await?;
        // Callers before the first answer cannot get one; all later ones do.
        let holds = counts.lookups == 1 && counts.answered > 0 && counts.failed_after_first_answer == 0;
        Ok(vec![finish_act(act, counts, holds)?])
    }

    pub(super) async fn spell_of_404s(&self) -> Result<Vec<Row>, Box<dyn Error>> {
        // One caller gets the channel's first answer; from the second lookup on the origin answers 404.
        let crowd = Self::crowd(SPELL)?;
        let one = Crowd { callers: 1, ..crowd };
        self.send("before the 404s", one).await?;

        let act = Act {
            title: "a spell of 404s",
            sentence: "The upstream starts to answer 404 for a channel that exists: callers get its last known upload.",
            without: "nobody answered",
        };
        let refetch = Crowd {
            max_age: Some(Duration::ZERO),
            ..crowd
        };
        let counts = self.send(act.title, refetch).await?;
        let holds = counts.lookups == 1 && counts.answered == CALLERS && counts.stale == 0;
        let wanted = finish_act(act, counts, holds)?;

        let act = Act {
            title: "… again, in the backoff",
            sentence: "They ask again: a failed lookup is not repeated for some seconds, and they get the same upload.",
            without: "nobody answered",
        };
        let counts = self.send(act.title, refetch).await?;
        let holds = counts.lookups == 0 && counts.answered == CALLERS;
        Ok(vec![wanted, finish_act(act, counts, holds)?])
    }

    pub(super) async fn bug_in_the_lookup(&self) -> Result<Vec<Row>, Box<dyn Error>> {
        let act = Act {
            title: "a lookup panics",
            sentence: "A bug makes the lookup panic: its callers get an error at once, and the server goes on.",
            without: "",
        };
        let counts = self.send(act.title, Self::crowd(BUG)?).await?;
        let failed = counts.failed_with("LOOKUP_PANICKED");
        let holds = failed == CALLERS && counts.lookups == 1;
        let backoff = sleep(BACKOFF);
        let panicked = finish_act(act, counts, holds)?;

        let act = Act {
            title: "… again, in the backoff",
            sentence: "They ask again: they get the same error, and nothing is sent upstream.",
            without: "",
        };
        let counts = self.send(act.title, Self::crowd(BUG)?).await?;
        let holds = counts.lookups == 0 && counts.failed_with("LOOKUP_PANICKED") == CALLERS;
        let remembered = finish_act(act, counts, holds)?;

        // In the time until the backoff has ended.
        let hung = self.hanging_upstream().await?;

        let act = Act {
            title: "the panic's backoff ends",
            sentence: "Six seconds after the panic its callers ask once more: one lookup, which is well, serves all.",
            without: "",
        };
        backoff.await;
        let counts = self.send(act.title, Self::crowd(BUG)?).await?;
        let holds = counts.lookups == 1 && counts.answered == CALLERS;
        let recovered = finish_act(act, counts, holds)?;
        Ok(vec![panicked, remembered, hung, recovered])
    }

    async fn hanging_upstream(&self) -> Result<Row, Box<dyn Error>> {
        let act = Act {
            title: "the upstream hangs",
            sentence: "The upstream does not answer: after the time limit of 2 s one lookup is given up, and its callers get an error.",
            without: "each with a connection that hangs",
        };
        let counts = self.send(act.title, Self::crowd(HANGING)?).await?;
        let failed = counts.failed_with("UPSTREAM_TIMEOUT");
        let holds = counts.lookups == 1 && failed == CALLERS;
        Ok(finish_act(act, counts, holds)?)
    }
}

fn finish_act(act: Act, counts: Counts, holds: bool) -> io::Result<Row> {
    let row = Row::new(act, counts, holds);
    writeln!(io::stdout(), "{}", row.verdict(io::stdout().is_terminal()))?;
    Ok(row)
}
