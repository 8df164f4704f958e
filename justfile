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
