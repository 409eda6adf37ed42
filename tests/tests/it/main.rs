//! Whole-system tests of the built `weft`: one module per subject.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test stops where something is wrong")]

mod api;
mod batching;
mod blobs;
mod config;
mod copies;
mod event_sourcing;
mod forks;
mod identity;
mod jetstream;
mod nats;
mod nats_mesh;
mod presence;
mod pressure;
mod projections;
mod quickstart;
mod resilience;
mod schedules;
mod schemas;
mod services;
mod simulator;
mod streams;
mod trace;
mod trust;
mod wire;
