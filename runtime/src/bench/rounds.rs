//! Figures of one side of a comparison, over its rounds.

use serde::Serialize;

/// One figure a round, all in the same unit.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Rounds(Vec<f64>);

impl Rounds {
    /// Adds a round's figure.
    pub(super) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The middle figure, which a disturbed round does not move; 0 without rounds.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        if sorted.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        }
    }

    /// How far the rounds lie apart: half of the range, in parts of the median.
    pub(super) fn spread(&self) -> f64 {
        let median = self.median();
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.0.iter().copied().fold(0.0, f64::max);
        if median > 0.0 {
            (greatest - least) / 2.0 / median
        } else {
            0.0
        }
    }

    /// This side's median in parts of another's; 0 when the other has none.
    pub(super) fn ratio_to(&self, other: &Self) -> f64 {
        let other = other.median();
        if other > 0.0 {
            self.median() / other
        } else {
            0.0
        }
    }

    /// The median and the spread, for a table.
    pub(super) fn cell(&self, shown: impl Fn(f64) -> String) -> String {
        format!("{} ±{:.0} %", shown(self.median()), self.spread() * 100.0)
    }
}

/// The two sides of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Millstream.
    Ours,
    /// The plain thing in its place.
    Plain,
}

/// The order of the sides in a round: each begins every other one, so that what the first leaves
/// behind (a warm cache, a busy disk) does not fall on the same side always.
pub(super) fn order(round: u32) -> [Side; 2] {
    if round.is_multiple_of(2) {
        [Side::Plain, Side::Ours]
    } else {
        [Side::Ours, Side::Plain]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let of = |figures: &[f64]| Rounds(figures.to_vec()).median();
        assert_eq!(of(&[]), 0.0);
        assert_eq!(of(&[3.0]), 3.0);
        assert_eq!(of(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), 3.0);
        assert_eq!(Rounds(vec![4.0]).ratio_to(&Rounds(vec![2.0])), 2.0);
        assert_eq!(Rounds(vec![4.0]).ratio_to(&Rounds::default()), 0.0);
        assert_eq!(Rounds(vec![9.0, 10.0, 11.0]).spread(), 0.1);
    }

    #[test]
    fn each_side_begins_every_other_round() {
        assert_eq!(order(0), [Side::Plain, Side::Ours]);
        assert_eq!(order(1), [Side::Ours, Side::Plain]);
    }
}
