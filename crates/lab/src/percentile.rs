//! Percentiles by nearest rank: always a value that was measured, never one in between.

/// Moves `values` about and gives the smallest one that at least `percent` % of them do not exceed.
///
/// `None` when there are no values. `percent` is 0 to 100; 50 gives the median, of an even number of
/// values the lower of the two in the middle.
pub(crate) fn nearest_rank(values: &mut [f64], percent: u32) -> Option<f64> {
    let rank = (values.len() * percent as usize).div_ceil(100).max(1);
    if rank > values.len() {
        return None;
    }
    let (_, value, _) = values.select_nth_unstable_by(rank - 1, f64::total_cmp);
    Some(*value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rank_is_a_value_of_the_list() {
        let mut values = [50.0, 15.0, 40.0, 20.0, 35.0];
        let mut at = |percent| nearest_rank(&mut values, percent);
        assert_eq!(at(5), Some(15.0));
        assert_eq!(at(30), Some(20.0));
        assert_eq!(at(50), Some(35.0));
        assert_eq!(at(95), Some(50.0));
        assert_eq!(at(100), Some(50.0));
    }

    #[test]
    fn one_value_is_every_percentile_and_none_is_none() {
        assert_eq!(nearest_rank(&mut [7.0], 5), Some(7.0));
        assert_eq!(nearest_rank(&mut [7.0], 95), Some(7.0));
        assert_eq!(nearest_rank(&mut [], 50), None);
    }
}
