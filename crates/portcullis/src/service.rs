//! What the service manager is told, where there is one that listens (`Type=notify`, sd_notify(3)).

use sd_notify::NotifyState;
use tracing::debug;

/// Tells the service manager, if `NOTIFY_SOCKET` names one.
pub fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        // It may restart, and it ends us if it misses something.
        debug!(%error, "the service manager does not listen");
    }
}
