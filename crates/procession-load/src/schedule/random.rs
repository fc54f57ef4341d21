/// Random numbers that depend on a seed and a place alone, so that any process can go on where another has ended.
///
/// The generator is SplitMix64, which is enough to draw arrivals, weights and think times.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed from this place on.
    pub fn new(seed: u64, place: u64) -> Random {
        let mut random = Random(seed ^ 0x5851_F42D_4C95_7F2D);
        let mixed = random.next_u64();
        Random(mixed ^ place.wrapping_mul(0xD129_0D3B_3B5D_A7B5))
    }

    /// 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 (included) to 1 (not included).
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The distance between two arrivals of a Poisson process of rate 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}
