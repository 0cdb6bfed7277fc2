//! Hazards that real systems had, each provoked against real files, sockets and processes, and each
//! provoked once more against a broken variant, which must show the failure.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod h1;
mod h10;
mod h11;
mod h12;
mod h13;
mod h7;
mod h8;
mod h9;
mod i1;
mod i12;
mod i13;
mod i14;
mod i2;
mod i3;
mod i4;
mod i5;
mod i6;
mod i8;
mod rig;
mod role;
mod s33;
mod saga;
