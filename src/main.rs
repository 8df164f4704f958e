//! The `plaque` program; see `plaque --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    plaque::cli::run()
}
