//! The helper: a thread that exists only while somebody needs it, that is, while a callback is outstanding or tasks wait
//! for a slot and it is not sure that anybody waits for results.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::thread;

use super::ledger::Delivery;
use super::lifecycle::{Look, Shared};
use crate::error::{Error, Result};
use crate::os::process::{block_all_signals, restore_signal_mask};

/// Decodes a delivery, calls what the user wants to be called, and gives the decoded result back for `get`.
pub(super) struct Callback(pub Box<dyn CallOnce>);

/// What a [`Callback`] does.
pub(super) trait CallOnce: FnOnce(&Shared, Delivery) -> Box<dyn Any + Send> + Send {}

impl<F: FnOnce(&Shared, Delivery) -> Box<dyn Any + Send> + Send> CallOnce for F {}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// The name of the thread.
const NAME: &str = "procession-help";

/// Whether the calling thread is a helper.
pub(super) fn is_helper() -> bool {
    thread::current().name() == Some(NAME)
}

impl Shared {
    /// Starts the helper, if there is need of one and none is running.
    pub(super) fn start_helper_if_needed(self: &Arc<Self>) -> Result<()> {
        {
            let mut ledger = self.lock();
            if ledger.helper_runs || !needed(&ledger) {
                return Ok(());
            }
            ledger.helper_runs = true;
        }
        let shared = self.clone();
        // Signals are the affair of the user's threads.
        let mask = block_all_signals();
        let started = thread::Builder::new()
            .name(NAME.into())
            .spawn(move || shared.help());
        restore_signal_mask(&mask);
        if let Err(error) = started {
            self.lock().helper_runs = false;
            return Err(Error::os("start a thread")(error));
        }
        Ok(())
    }

    fn help(self: Arc<Self>) {
        loop {
            let called_for = self.wait_for(None, |ledger| {
                if let Some(job) = ledger.called_for.pop_front() {
                    return Look::Found(Some(job));
                }
                if needed(ledger) {
                    // For the backlog alone, it is enough to look when half of the slots are back.
                    let results = if ledger.callbacks_outstanding > 0 {
                        1
                    } else {
                        ledger.dispatcher.in_flight() as i64 / 2
                    };
                    return Look::Wait {
                        results,
                        at_most: None,
                    };
                }
                ledger.helper_runs = false;
                Look::Found(None)
            });
            match called_for {
                Some(Some(job)) => self.call(job),
                // Whoever joins the pool waits for this.
                _ => return self.waiter.wake_all(),
            }
        }
    }

    fn call(self: &Arc<Self>, job: u32) {
        let Some((callback, delivery)) = self.lock().take_callback(job) else {
            return;
        };
        let value = (callback.0)(self, delivery);
        self.lock().end_callback(job, value);
        self.waiter.wake_all();
    }
}

fn needed(ledger: &super::ledger::Ledger) -> bool {
    ledger.callbacks_outstanding > 0 || ledger.has_backlog()
}
