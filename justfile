# What CI runs.
check:
    .ci/run

# The fast part of it.
test:
    cargo test

fmt:
    cargo fmt

demo:
    cargo run --release -- demo

# plaque beside other caches, on this machine; `benches/REPORT.md` says how to read it. A part of it: `just bench waves`.
bench part='':
    cargo bench --bench coalesce -- {{part}}

# What a hit adds to moka's own `get`. Needs perf, or valgrind where perf may not count.
bench-hit-instructions:
    cargo bench --bench coalesce -- instructions
