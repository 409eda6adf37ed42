//! Benchmark of the mesh.
fn main() {}
