//! Peers that are up to no good.
