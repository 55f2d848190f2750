//! Many measurements of one thing, and the few numbers that are shown of them.

use std::time::Duration;

/// Measurements in the order of their size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    /// Adds a measurement.
    pub(crate) fn add(&mut self, value: f64) {
        let place = self.0.partition_point(|known| *known < value);
        self.0.insert(place, value);
    }

    /// Adds a time, in milliseconds.
    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1e3);
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest; 0 without measurements.
    pub(crate) fn minimum(&self) -> f64 {
        self.0.first().copied().unwrap_or_default()
    }

    /// The one in the middle.
    pub(crate) fn median(&self) -> f64 {
        self.part(50)
    }

    /// The smallest measurement that at least `percent` of all do not exceed.
    pub(crate) fn part(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(rank).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_measurements_that_were_made() {
        let mut sample = Sample::default();
        for value in [5.0, 1.0, 4.0, 2.0, 3.0] {
            sample.add(value);
        }
        assert_eq!([sample.minimum(), sample.median(), sample.part(99)], [1.0, 3.0, 5.0]);
        assert_eq!(Sample::default().median(), 0.0);
    }
}
