//! Simulations of the dispatcher: virtual time, seeded randomness, seconds of run time.

mod abusers;
mod model;
mod overload;
mod returning;
mod steps;
mod world;
