//! `portcullis top`: the agent, live. `rates` makes speeds of two looks at it, `screen` shows them.

mod rates;
mod screen;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::admin::client::{self, ClientError};
use crate::admin::snapshot::Status;
use crate::exit::{self, Failure, system, usage};
use rates::{Order, Rates};

/// `portcullis top`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  portcullis top
  portcullis top -n 0.5     # twice a second",
    after_help = "Keys: q or Esc ends, p pauses, Tab and the arrows choose what ports are sorted by."
)]
pub struct TopArgs {
    /// Seconds between two looks.
    #[arg(short = 'n', long, default_value_t = 1.0, value_parser = seconds, value_name = "SECONDS")]
    pub interval: f64,

    /// The state directory of the agent.
    #[arg(long, env = "PORTCULLIS_STATE_DIR", default_value = "/run/portcullis", value_name = "DIR")]
    pub state_dir: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not between 0.1 and 3600".to_owned()),
    }
}

/// What is on the screen.
#[derive(Debug, Default)]
struct View {
    rates: Option<Rates>,
    order: Order,
    paused: bool,
    /// Why the figures are not of now.
    trouble: Option<String>,
}

/// Shows the agent until somebody has seen enough.
///
/// # Errors
///
/// There is no terminal (exit code 2), or no agent at the beginning (3).
pub fn run(args: &TopArgs) -> Result<u8, Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(usage(anyhow!(
            "top needs a terminal: `portcullis status` says the same once, also into a pipe"
        )));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let look =
        || -> Result<Status, ClientError> { runtime.block_on(client::read(&args.state_dir, "/v1/status")) };
    // Without an agent to begin with, a plain message says more than an empty screen.
    let first = look().map_err(system)?;
    let mut terminal = ratatui::try_init().map_err(system)?;
    let shown = show(&mut terminal, first, look, Duration::from_secs_f64(args.interval));
    ratatui::restore();
    shown.map(|()| exit::OK).map_err(system)
}

fn show(
    terminal: &mut DefaultTerminal,
    first: Status,
    look: impl Fn() -> Result<Status, ClientError>,
    interval: Duration,
) -> io::Result<()> {
    let mut view = View { rates: Some(Rates::first(first)), ..View::default() };
    let mut looked = Instant::now();
    loop {
        terminal.draw(|frame| screen::draw(frame, &view))?;
        if event::poll(interval.saturating_sub(looked.elapsed()))? {
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && !view.press(key)
            {
                return Ok(());
            }
        } else {
            looked = Instant::now();
            view.take(look());
        }
    }
}

impl View {
    /// A new look at the agent. A paused screen stays as it is.
    fn take(&mut self, looked: Result<Status, ClientError>) {
        match looked {
            _ if self.paused => {}
            Ok(status) => {
                self.trouble = None;
                self.rates = Some(match self.rates.take() {
                    Some(before) => before.then(status),
                    None => Rates::first(status),
                });
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    /// A key was pressed; false if that was the last one.
    const fn press(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Tab | KeyCode::Right | KeyCode::Down => self.order = self.order.next(),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Up => self.order = self.order.previous(),
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_last_line_says() {
        let mut view = View::default();
        let mut press = |code| view.press(KeyEvent::new(code, KeyModifiers::NONE));
        assert!(press(KeyCode::Char('x')) && press(KeyCode::Char('p')) && press(KeyCode::Tab));
        assert!(!press(KeyCode::Char('q')) && !press(KeyCode::Esc));
        assert!(view.paused);
        assert_eq!(view.order, Order::Received);
        view.press(KeyEvent::new(KeyCode::Left, KeyModifiers::NONE));
        assert_eq!(view.order, Order::Configured);
        assert!(!view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn a_paused_screen_stays_and_trouble_is_told() {
        let of = |pid| Status { pid, ..Status::default() };
        let mut view = View { rates: Some(Rates::first(of(1))), ..View::default() };
        let pid = |view: &View| view.rates.as_ref().map(|rates| rates.status.pid);
        view.take(Ok(of(2)));
        assert_eq!(pid(&view), Some(2));
        view.take(Err(ClientError::Silent));
        assert_eq!((pid(&view), view.trouble.is_some()), (Some(2), true));
        view.paused = true;
        view.take(Ok(of(3)));
        assert_eq!(pid(&view), Some(2));
        view.paused = false;
        view.take(Ok(of(3)));
        assert_eq!((pid(&view), view.trouble.is_some()), (Some(3), false));
    }
}
