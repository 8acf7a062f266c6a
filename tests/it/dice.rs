//! Moments drawn from a seed.

/// A draw of its own, so that a seed means the same for ever.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number from 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}
