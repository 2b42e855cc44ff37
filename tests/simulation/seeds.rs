//! Which runs a test plays.

/// Seeds to play: the one asked for, so many fresh ones, or the first `count`.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("QUORATE_SEED") {
        return vec![seed];
    }
    match number("QUORATE_SEEDS") {
        Some(fresh) => {
            let start =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
            (0..fresh).map(|index| start * 1_000 + index).collect()
        }
        None => (1..=count).collect(),
    }
}
