//! Raw numbers into measured ones.

/// Decimals that a number is rounded to, at most; beyond them a double has nothing to say.
const DECIMALS: usize = 12;

/// `raw`, which has so many decimals itself, times `scale` plus `offset`. 217 by 0.1 is 21.7, not 21.700000000000003: the factors
/// say how many decimals there can be.
pub fn scaled(raw: f64, own: usize, scale: Option<f64>, offset: Option<f64>) -> f64 {
    let value = raw * scale.unwrap_or(1.0) + offset.unwrap_or(0.0);
    let most = (own + decimals(scale.unwrap_or(1.0))).max(decimals(offset.unwrap_or(0.0)));
    if most <= DECIMALS { rounded(value, most) } else { value }
}

/// What is wrong with a scale or offset: the field, and why.
pub fn check(scale: Option<f64>, offset: Option<f64>) -> Result<(), (&'static str, &'static str)> {
    match (scale, offset) {
        (Some(0.0), _) => Err(("scale", "expected anything but 0")),
        (Some(scale), _) if !scale.is_finite() => Err(("scale", "expected a number")),
        (_, Some(offset)) if !offset.is_finite() => Err(("offset", "expected a number")),
        _ => Ok(()),
    }
}

/// A number with at most so many decimals.
pub fn rounded(value: f64, decimals: usize) -> f64 {
    format!("{value:.decimals$}").parse().unwrap_or(value)
}

/// The decimals that a number is written with.
pub fn decimals(number: f64) -> usize {
    number.to_string().split_once('.').map_or(0, |(_, decimals)| decimals.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_no_more_decimals_than_its_factors() {
        for (raw, own, scale, offset, want) in [
            (217.0, 0, Some(0.1), None, 21.7),
            (6170.0, 0, Some(0.01), Some(-40.0), 21.7),
            (21.437, 3, Some(0.1), Some(0.00001), 2.14371),
            (3.0, 0, Some(1.0 / 3.0), None, 1.0),
            (-0.125, 3, None, None, -0.125),
        ] {
            assert_eq!(scaled(raw, own, scale, offset), want, "{raw}");
        }
        assert!(scaled(f64::NAN, 0, None, None).is_nan());
        assert_eq!(scaled(f64::MAX, 0, Some(10.0), None), f64::INFINITY);
    }
}
