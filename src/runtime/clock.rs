//! The only reader of operating-system clocks.

use std::time::{Duration, Instant as OsInstant, SystemTime};

use crate::clock::{Instant, Now, WallTime};

/// Tells the present, counted from when it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: OsInstant,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { origin: OsInstant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        Now { instant: Instant(millis(self.origin.elapsed())), wall: wall_time() }
    }

    /// What the core calls the moment at which the operating system's clock tells `moment`.
    pub(crate) fn instant_of(&self, moment: OsInstant) -> Instant {
        Instant(millis(moment.saturating_duration_since(self.origin)))
    }

    /// When the operating system's clock will tell `instant`.
    pub(crate) fn os_instant(&self, instant: Instant) -> OsInstant {
        self.origin + Duration::from_millis(instant.0)
    }
}

/// The wall clock alone, for threads that need no deadlines. Zero before 1970.
pub(crate) fn wall_time() -> WallTime {
    WallTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
