//! The facade's integration tests, one binary: a `mod` a file, so that the engine is linked once.

mod compose;
mod layers;
mod orders;
