//! Topologies: made, described, drawn.
