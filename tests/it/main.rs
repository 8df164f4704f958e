//! Integration tests: one file for each behavior, over a counting fake upstream, without network and sleeping.

mod pki;
mod raw;
#[path = "../stores/mod.rs"]
mod stores;
mod support;

mod batch;
mod canary;
mod client;
mod coalescing;
mod commands;
mod compressed;
mod config_file;
mod direct;
mod drain;
mod errors;
mod freshness;
mod grpc_web;
mod health;
mod http;
mod http_ports;
mod kinds;
mod limits;
mod lists;
mod metrics;
mod metrics_page;
mod overload;
mod program;
mod proxies;
mod serving;
mod snapshots;
mod sources;
mod sources_budget;
mod sources_failing;
mod starting;
mod status_page;
mod store_file;
mod store_memory;
mod store_messages;
mod store_program;
mod store_restart;
mod tls;
mod traces;
mod watching;
mod writes;
mod youtube;
