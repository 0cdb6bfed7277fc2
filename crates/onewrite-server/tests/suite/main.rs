//! The program `onewrite` as its users meet it: real processes, real files, real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it is surprised")]

mod away;
mod bad_input;
mod balancer;
mod bounds;
mod cli;
mod consumers;
mod dead_letter;
mod definitions;
mod demo;
mod disk;
mod dtm;
mod failpoints;
mod flow;
mod languages;
mod leaving;
mod nodes;
mod orchestration;
mod peer;
mod relay;
mod restore;
#[cfg(feature = "sabotage")]
mod sabotage;
mod saga;
mod serve;
mod servers;
mod services;
mod support;
mod suspension;
