# What must hold before a change lands. While you work: `just check fast`.
check form='':
    .ci/run {{form}}

test:
    cargo test

fmt:
    cargo fmt --all

demo:
    cargo run --release -- demo

# The coalescer beside other caches, on this machine; `benches/REPORT.md` says how to read it. A part of it: `just bench waves`.
bench part='':
    cargo bench --locked -p coalesce-benches --bench coalesce -- {{part}}

# What a hit costs, in instructions, beside the figures of the last change that meant to change them; `--save` makes these the last.
# Needs perf, or valgrind where perf may not count.
bench-call *options='':
    cargo run --locked --profile dist -p call -- {{options}}

# What a hit adds to moka's own `get`. Needs perf, or valgrind where perf may not count.
bench-hit-instructions:
    cargo bench --locked -p coalesce-benches --bench coalesce -- instructions

# What reading a feed costs beside bare feed-rs, on the recorded feeds in a folder.
bench-feed folder='../shared/captures':
    cargo bench --locked -p benches --bench feed -- {{folder}}

# What a lookup's way through the dispatcher costs, beside a plain queue.
bench-dispatch:
    cargo bench --locked -p benches --bench dispatch

# What a store costs, and what replicas that share one spare the upstream: some eight minutes. Needs redis-server. A part of it: `just
# bench-store cost` (`replicas`).
bench-store *options='':
    cargo bench --locked -p benches --bench store -- {{options}}

# plaque's server beside other gRPC servers and servers of files: half an hour on a quiet machine, 4 GB. Needs Go, h2load, nghttpd and h2o
# (Debian: nghttp2-client, nghttp2-server, h2o). A part of it: `just bench-server answers` (`open`, `hits`, `burst`, `million`, `watches`).
bench-server part='all' *options='':
    cargo build --locked --profile dist
    python3 -m venv target/ci/python
    target/ci/python/bin/pip install --quiet --disable-pip-version-check --require-hashes -r tests/blackbox/requirements.txt
    target/ci/python/bin/python benches/server.py {{part}} {{options}}

# The program of a release: target/pgo/plaque, optimized by a profile of calls. Two builds of all crates: ten minutes on two cores. Needs
# `rustup component add llvm-tools`, and h2load.
dist:
    benches/dist

# All that is published of a version: target/release-VERSION, and a tag. See `deploy/release --help`.
release *options='':
    .ci/run
    deploy/release {{options}}

# README.md's pictures, from runs of target/dist/plaque: two minutes. Needs chromium, grpcurl and jq, as `.ci/run` installs them.
pictures:
    PATH=$PWD/target/ci/bin:$PATH target/ci/python/bin/python docs/pictures/make.py

# What Python packages CI installs, of what the .in files name: newer ones that these allow, and the hashes of all.
lock-python:
    for folder in tests/blackbox examples/clients/python; do \
        (cd $folder && uv pip compile --quiet --upgrade --universal --generate-hashes requirements.in -o requirements.txt); \
    done

# Any bytes into whatever reads what comes from outside, for so many seconds each: all of fuzz/fuzz_targets, or one. Needs cargo-fuzz
# (`cargo install --locked cargo-fuzz`).
fuzz seconds='60' *targets='':
    .ci/fuzz {{seconds}} {{targets}}
