//! What the demonstration shows: what is going on, and what came of it.

use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Results on stdout; on a terminal, what is going on now as a spinner on stderr, else as plain lines.
pub(super) struct Screen {
    spinner: Option<ProgressBar>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let spinner = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            let bar = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { spinner }
    }

    /// What is going on now.
    pub(super) fn step(&self, what: &str) {
        match &self.spinner {
            Some(bar) => bar.set_message(what.to_owned()),
            None => self.print(&format!("... {what}")),
        }
    }

    /// What came of it.
    pub(super) fn say(&self, what: &str) {
        match &self.spinner {
            Some(bar) => bar.suspend(|| self.print(what)),
            None => self.print(what),
        }
    }

    #[expect(clippy::unused_self, reason = "the screen is what prints")]
    fn print(&self, text: &str) {
        // A reader who has gone away misses the rest.
        drop(writeln!(io::stdout().lock(), "{text}"));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(bar) = &self.spinner {
            bar.finish_and_clear();
        }
    }
}
