//! The `plaque` program; see `plaque --help`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A task of tokio's is aligned to 128 bytes. glibc cuts it out of a larger piece and leaves the ends unused: a waiting caller
/// takes half as much again (`benches/REPORT.md`). A hit costs the same with both, and with jemalloc.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    plaque::cli::run()
}
