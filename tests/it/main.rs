//! Behaviour, from outside: one file for each, over a counting fake upstream, with no network and no sleeping.

mod support;

mod batch;
mod coalescer;
mod coalescing;
mod errors;
mod freshness;
mod kinds;
mod program;
mod serving;
mod watching;
mod youtube;
