//! Counts bytes that are held in memory, up to a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for so many bytes. Clones share it.
#[derive(Clone)]
pub(super) struct Room(Arc<Bytes>);

struct Bytes {
    held: AtomicUsize,
    most: usize,
}

/// What one of those who share the room holds, until it is dropped.
pub(super) struct Held {
    room: Room,
    bytes: AtomicUsize,
}

impl Room {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self(Arc::new(Bytes {
            held: AtomicUsize::new(0),
            most: most_bytes,
        }))
    }

    /// Bytes that are held now.
    pub(super) fn held_bytes(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Whether there is room for as many bytes, now and of somebody who holds none.
    pub(super) fn has(&self, bytes: usize) -> bool {
        self.0.fits(self.held_bytes(), 0, bytes)
    }

    pub(super) fn hold(&self) -> Held {
        Held {
            room: self.clone(),
            bytes: AtomicUsize::new(0),
        }
    }
}

impl Bytes {
    /// Whoever is alone has room, however much it is.
    fn fits(&self, held: usize, own: usize, more: usize) -> bool {
        held == own || held.saturating_add(more) <= self.most
    }
}

impl Held {
    /// Holds more bytes, if there is room for them.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let own = self.bytes.load(Ordering::Relaxed);
        let room = &self.room.0;
        let taken = room
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                room.fits(held, own, bytes).then_some(held + bytes)
            });
        if taken.is_ok() {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Holds more bytes, which are there whether there is room for them or not.
    pub(super) fn take_anyway(&self, bytes: usize) {
        self.room.0.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.room.0.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_hold_no_more_than_there_is_room_for() {
        let room = Room::new(100);
        let (first, second) = (room.hold(), room.hold());
        assert!(first.take(60) && second.take(40));
        assert!(!second.take(1) && !room.has(1));
        assert_eq!(room.held_bytes(), 100);
        drop(second);
        assert!(first.take(40));
        // Alone it may hold more.
        assert!(first.take(50));
        let other = room.hold();
        assert!(!other.take(1));
        other.take_anyway(1);
        assert_eq!(room.held_bytes(), 151);
        drop((first, other));
        assert_eq!(room.held_bytes(), 0);
        assert!(room.has(1000));
    }
}
