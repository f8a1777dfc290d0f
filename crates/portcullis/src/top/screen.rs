//! What `top` draws: a line on the agent, ports, workers, drops, and what the keys do.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};

use super::View;
use super::rates::{PortRates, Rates};
use crate::admin::snapshot::{ManifestState, Port, PortState, Status, Worker};
use crate::status::{Numbers, span};

const NUMBERS: Numbers = Numbers { grouped: true };
/// The length of a bar.
const BAR: usize = 10;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let Some(rates) = &view.rates else { return };
    let workers = rates.workers.len() as u16 + 2;
    let drops = (rates.drops.len() as u16 + 1).clamp(2, 8);
    let [head, ports, busy, dropped, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(workers),
        Constraint::Length(drops),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(&rates.status, view.trouble.as_deref()), head);
    draw_ports(frame, ports, rates, view);
    draw_workers(frame, busy, rates);
    draw_drops(frame, dropped, rates);
    let paused = if view.paused { "PAUSED   " } else { "" };
    let text = format!("{paused}q ends   p pauses   Tab, arrows: ports sorted by {}", view.order.name());
    frame.render_widget(Line::styled(text, dim()), keys);
}

fn heading(status: &Status, trouble: Option<&str>) -> ratatui::text::Text<'static> {
    let policy = match &status.table {
        Some(table) => format!("generation {} in force for {}", table.generation, span(table.age_seconds)),
        None => "no policy in force".to_owned(),
    };
    let Status { version, node, connections, .. } = status;
    let first = format!(
        "portcullis {version} on {node}, up {}   {policy}   {} of {} connections",
        span(status.uptime_seconds),
        NUMBERS.write(connections.entries as u64),
        NUMBERS.write(connections.capacity as u64),
    );
    let second = match trouble {
        Some(trouble) => Line::styled(trouble.to_owned(), alarm()),
        None if status.manifests.state == ManifestState::Refused => {
            Line::styled("the manifests are refused: `portcullis status` says why", alarm())
        }
        None => Line::default(),
    };
    vec![Line::styled(first, Style::new().add_modifier(Modifier::BOLD)), second].into()
}

fn draw_ports(frame: &mut Frame<'_>, area: Rect, rates: &Rates, view: &View) {
    let header = ["PORT", "POD", "STATE", "RX/s", "TX/s", "DROPS/s", "FILL RING", "RX RING", "TX RING"];
    let widths = [16, 24, 9, 11, 11, 11, 15, 15, 15].map(Constraint::Length);
    let rows = rates.sorted(view.order).into_iter().map(|(port, speed)| port_row(port, speed));
    frame.render_widget(Table::new(rows, widths).header(header_row(&header, 3..6)), area);
}

fn port_row(port: &Port, speed: PortRates) -> Row<'static> {
    let style = if port.state == PortState::Attached { Style::new() } else { alarm() };
    // Of several queues the one that has the most trouble.
    let rings = || port.queues.iter().map(|queue| queue.rings);
    let share = |taken: u32, room: u32| f64::from(taken) / f64::from(room.max(1));
    let fill = rings().map(|rings| share(rings.fill, rings.capacity)).reduce(f64::min);
    let rx = rings().map(|rings| share(rings.rx, rings.capacity)).reduce(f64::max);
    let tx = rings().map(|rings| share(rings.tx + rings.completion, rings.capacity)).reduce(f64::max);
    let bar = |ratio: Option<f64>| Cell::from(ratio.map_or_else(String::new, bar));
    Row::new([
        Cell::from(port.interface.clone()),
        Cell::from(port.pod.clone().unwrap_or_default()),
        Cell::from(Span::styled(port.state.name(), style)),
        right(speed.received),
        right(speed.sent),
        right(speed.dropped).style(if speed.dropped > 0.0 { alarm() } else { Style::new() }),
        bar(fill),
        bar(rx),
        bar(tx),
    ])
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let header = ["WORKER", "HEARTBEAT", "BUSY", "FRAMES/s", "PER BURST"];
    let widths = [8, 16, 18, 11, 11].map(Constraint::Length);
    let rows = rates.status.workers.iter().zip(&rates.workers).map(|(worker, speed)| {
        let Worker { answers, heartbeat_age_seconds, busy_ratio, .. } = *worker;
        let burst = if speed.bursts > 0.0 { speed.frames / speed.bursts } else { 0.0 };
        Row::new([
            Cell::from(worker.worker.to_string()),
            Cell::from(format!("{} ago", span(heartbeat_age_seconds))),
            Cell::from(bar(busy_ratio)),
            right(speed.frames),
            Cell::from(Line::from(format!("{burst:.1}")).right_aligned()),
        ])
        .style(if answers { Style::new() } else { alarm() })
    });
    frame.render_widget(Table::new(rows, widths).header(header_row(&header, 3..5)), area);
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let widths = [24, 16, 11].map(Constraint::Length);
    let rows = rates
        .drops
        .iter()
        .map(|drop| Row::new([Cell::from(drop.reason.clone()), right(drop.frames as f64), right(drop.rate)]));
    frame.render_widget(
        Table::new(rows, widths).header(header_row(&["DROPPED AS", "FRAMES", "FRAMES/s"], 1..3)),
        area,
    );
}

fn header_row(names: &[&'static str], numbers: std::ops::Range<usize>) -> Row<'static> {
    let cells = names.iter().enumerate().map(|(index, name)| {
        let line = Line::from(*name);
        Cell::from(if numbers.contains(&index) { line.right_aligned() } else { line })
    });
    Row::new(cells.collect::<Vec<_>>()).style(dim())
}

fn right(number: f64) -> Cell<'static> {
    Cell::from(Line::from(NUMBERS.write(number.round() as u64)).right_aligned())
}

/// `####......  44 %`: letters, which every terminal has.
fn bar(ratio: f64) -> String {
    let ratio = ratio.clamp(0.0, 1.0);
    let full = (ratio * BAR as f64).round() as usize;
    format!("{}{} {:>3.0}%", "#".repeat(full), ".".repeat(BAR - full), ratio * 100.0)
}

const fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

const fn alarm() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::admin::snapshot::{Connections, Queue, Rings, Table};
    use crate::top::rates::Order;

    fn status(uptime_seconds: f64, frames: u64) -> Status {
        let queue = Queue {
            received: frames,
            sent: frames / 2,
            rings: Rings { capacity: 2048, fill: 900, rx: 0, tx: 2000, completion: 48 },
            ..Queue::default()
        };
        let pod = Port {
            interface: "veth-web".into(),
            pod: Some("shop/web".into()),
            state: PortState::Attached,
            dropped: frames / 4,
            queues: vec![queue],
            ..Port::default()
        };
        let gone = Port { interface: "eth1".into(), state: PortState::Absent, ..Port::default() };
        let worker = Worker {
            answers: true,
            heartbeat_age_seconds: 0.0042,
            busy_ratio: 0.25,
            received: frames,
            bursts: frames / 8,
            ..Worker::default()
        };
        Status {
            version: "0.1.0".into(),
            node: "node-1".into(),
            uptime_seconds,
            table: Some(Table { generation: 4, age_seconds: 12.0, ..Table::default() }),
            ports: vec![gone, pod],
            workers: vec![worker],
            drops: [("default_deny".into(), frames / 4), ("no_flow".into(), 0)].into(),
            connections: Connections { entries: 1234, capacity: 262_144, ..Connections::default() },
            ..Status::default()
        }
    }

    /// What a terminal of this size shows, without the spaces at the ends.
    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let cells = terminal.backend().buffer().content().chunks(usize::from(width));
        let lines = cells.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        lines.map(|line| format!("{}\n", line.trim_end())).collect()
    }

    #[test]
    fn a_screen() {
        let rates = Rates::first(status(10.0, 1000)).then(status(12.0, 2_001_000));
        let mut view = View { rates: Some(rates), order: Order::Received, ..View::default() };
        let shown = screen(&view, 140, 14);
        assert_eq!(shown, include_str!("../../tests/golden/top.txt"), "{shown}");
        view.trouble = Some("the agent does not answer within 5 s".into());
        view.paused = true;
        let shown = screen(&view, 140, 14);
        assert!(shown.contains("\nthe agent does not answer within 5 s\n"), "{shown}");
        assert!(
            shown.ends_with("PAUSED   q ends   p pauses   Tab, arrows: ports sorted by RX/s\n"),
            "{shown}"
        );
    }

    #[test]
    fn no_terminal_is_too_small() {
        let view = View { rates: Some(Rates::first(status(1.0, 0))), ..View::default() };
        for (width, height) in [(1, 1), (20, 3), (80, 6), (300, 100)] {
            screen(&view, width, height);
        }
    }

    #[test]
    fn bars_are_of_one_length() {
        assert_eq!(
            [0.0, 0.44, 1.0, 7.0].map(bar),
            ["..........   0%", "####......  44%", "########## 100%", "########## 100%"]
        );
    }
}
