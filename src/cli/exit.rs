//! The exit codes of the commands that ask a server, and what decides them: pure.

use std::{error::Error, process::ExitCode};

use tonic::Code;

use crate::{
    proto::v1::LookupFailure,
    telemetry,
    youtube::{self, data_api},
};

/// How a command ended. In ascending order: of several channels, the greatest is the exit code, since it needs a person's attention most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    Success,
    /// The channel or an upload of it does not exist. Asking again would not help.
    NotFound,
    /// The same command may succeed later: `EX_TEMPFAIL` of sysexits.h.
    TryAgain,
    /// Any other failure.
    Failure,
    /// The command line or the request is wrong.
    Usage,
}

impl Exit {
    /// The exit code for a failure of one channel.
    pub(super) fn of(failure: &LookupFailure) -> Self {
        match Code::from(failure.code) {
            Code::Ok => Self::Success,
            Code::NotFound => Self::NotFound,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => Self::TryAgain,
            Code::InvalidArgument => Self::Usage,
            _ => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::NotFound => 3,
            Exit::TryAgain => 75,
            Exit::Failure => 1,
            Exit::Usage => 2,
        })
    }
}

/// A command failed: what is printed, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failed {
    pub(super) message: String,
    pub(super) exit: Exit,
}

/// The exit code of a command that ended with `error`.
pub(super) fn code(error: &(dyn Error + 'static)) -> ExitCode {
    let exit = match error.downcast_ref::<Failed>() {
        Some(failed) => failed.exit,
        None if is_invalid_flag(error) => Exit::Usage,
        None => Exit::Failure,
    };
    exit.into()
}

/// Whether a flag, or the file that it names, has to be changed.
fn is_invalid_flag(error: &(dyn Error + 'static)) -> bool {
    use telemetry::SetupError::{Chrome, Export};
    use youtube::SetupError::{Authorities, Proxy};

    error.is::<super::InvalidFlags>()
        || matches!(error.downcast_ref(), Some(data_api::OpenError::Key { .. }))
        || matches!(error.downcast_ref(), Some(Authorities(_) | Proxy(_)))
        || matches!(error.downcast_ref(), Some(Chrome(..) | Export(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_failure_says_whether_another_try_may_help() {
        for (code, exit) in [
            (Code::NotFound, Exit::NotFound),
            (Code::Unavailable, Exit::TryAgain),
            (Code::ResourceExhausted, Exit::TryAgain),
            (Code::DeadlineExceeded, Exit::TryAgain),
            (Code::Internal, Exit::Failure),
            (Code::Unimplemented, Exit::Failure),
            (Code::InvalidArgument, Exit::Usage),
        ] {
            let code = code.into();
            let failure = LookupFailure {
                code,
                ..LookupFailure::default()
            };
            assert_eq!(Exit::of(&failure), exit);
        }
    }

    #[test]
    fn of_several_channels_the_worst_decides() {
        let ascending = [
            Exit::Success,
            Exit::NotFound,
            Exit::TryAgain,
            Exit::Failure,
            Exit::Usage,
        ];
        assert!(ascending.is_sorted());
    }
}
