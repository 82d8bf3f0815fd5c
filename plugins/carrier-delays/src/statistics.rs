//! What is known of one carrier.

use serde::Serialize;

/// An arrival more than this many minutes after the schedule is late.
const LATE_AFTER_MINUTES: i64 = 15;

/// Statistics of one carrier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub(crate) struct Statistics {
    /// All flights.
    pub(crate) flights: u64,
    /// Flights that never departed.
    pub(crate) cancelled: u64,
    /// Flights that arrived.
    pub(crate) arrived: u64,
    /// Sum of the arrivals' delays in minutes; early ones count below zero.
    pub(crate) arr_delay_sum: i64,
    /// Arrivals more than 15 minutes late.
    pub(crate) late15: u64,
}

impl Statistics {
    /// Counts one flight.
    pub(crate) fn count(&mut self, departed: bool, arr_delay_minutes: Option<i64>) {
        self.flights += 1;
        self.cancelled += u64::from(!departed);
        if let Some(minutes) = arr_delay_minutes {
            self.arrived += 1;
            self.arr_delay_sum = self.arr_delay_sum.saturating_add(minutes);
            self.late15 += u64::from(minutes > LATE_AFTER_MINUTES);
        }
    }

    /// As kept in the state: the five numbers, little-endian.
    pub(crate) fn to_bytes(self) -> [u8; 40] {
        let sum = self.arr_delay_sum as u64;
        let numbers = [self.flights, self.cancelled, self.arrived, sum, self.late15];
        let mut bytes = [0; 40];
        let (places, _) = bytes.as_chunks_mut::<8>();
        for (place, number) in places.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes
    }

    /// Reads what [`Statistics::to_bytes`] wrote; `None` for anything else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (places, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let &[flights, cancelled, arrived, sum, late15] = places else {
            return None;
        };
        Some(Self {
            flights: u64::from_le_bytes(flights),
            cancelled: u64::from_le_bytes(cancelled),
            arrived: u64::from_le_bytes(arrived),
            arr_delay_sum: i64::from_le_bytes(sum),
            late15: u64::from_le_bytes(late15),
        })
    }
}
