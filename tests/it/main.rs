//! Behaviour, from outside: one file for each, over a counting fake upstream, with no network and no sleeping.

mod pki;
mod raw;
mod support;

mod batch;
mod client;
mod coalescer;
mod coalescing;
mod drain;
mod errors;
mod freshness;
mod health;
mod kinds;
mod limits;
mod program;
mod serving;
mod tls;
mod traces;
mod watching;
mod youtube;
