//! The picture of a state.

use procession::watch::Activity;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Clear, Paragraph};
use ratatui::Frame;

use super::state::{Line, Over, State};
use crate::table;
use crate::units::{counted, rate, short_seconds};

const HELP: [(&str, &str); 10] = [
    (
        "↑ ↓, k j",
        "move to another worker; PgUp, PgDn, Home, End go further",
    ),
    (
        "s",
        "sort by the next column: name, age, cpu, memory, done, failed",
    ),
    ("r", "sort the other way round"),
    ("d", "show where the worker is: its Python stack"),
    ("z", "suspend the worker, or let it go on"),
    ("x", "kill the worker: its task fails, the pool replaces it"),
    ("?, h", "this help"),
    ("q, Ctrl-C", "leave"),
    ("", ""),
    ("", "blocked: has a task and sleeps in it (disk, network, lock)"),
];

/// Draws the whole picture.
pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    state.scroll(usize::from(body.height));
    frame.render_widget(headline(state, usize::from(head.width)), head);
    if state.pools.is_empty() {
        let text = "No pool of yours is running. Pools are shown here as soon as they are made.";
        frame.render_widget(Paragraph::new(text), body);
    } else {
        let lines: Vec<Text<'_>> = state
            .lines()
            .into_iter()
            .skip(state.top)
            .take(usize::from(body.height))
            .map(|line| draw_line(state, line, usize::from(body.width)))
            .collect();
        frame.render_widget(Paragraph::new(lines), body);
    }
    let foot_text = if state.message.is_empty() {
        "s sort  r reverse  d stack  z suspend/resume  x kill  ? help  q quit".to_owned()
    } else {
        state.message.clone()
    };
    frame.render_widget(Paragraph::new(foot_text).style(dim(state)), foot);
    match &state.over {
        Over::Nothing => {}
        Over::Help => help(frame, state),
        Over::Stack { title, lines, from } => {
            let room = usize::from(body.height).saturating_sub(2);
            let seen = lines.iter().skip(*from).take(room);
            let text = seen.map(|line| Text::from(line.clone())).collect();
            popup(frame, state, title, text);
        }
        Over::ConfirmKill { pid, what } => {
            let text = vec![
                Text::from(format!("Kill {what}?")),
                Text::from(state.stake(*pid)),
                Text::from(""),
                Text::from("y kills it, any other key does not"),
            ];
            popup(frame, state, "kill", text);
        }
    }
}

fn headline(state: &State, width: usize) -> Paragraph<'static> {
    let workers: usize = state.pools.iter().map(|pool| pool.workers.len()).sum();
    let per_second: f64 = state
        .pools
        .iter()
        .fold(0.0, |sum, pool| sum + pool.items_per_second);
    let left = format!(
        "procession top  {}, {}, {}",
        counted(state.pools.len() as u64, "pool"),
        counted(workers as u64, "worker"),
        rate(per_second)
    );
    let right = format!(
        "by {}{}, every {}",
        state.sort,
        if state.reversed { ", reversed" } else { "" },
        short_seconds(state.interval_seconds)
    );
    let gap = width.saturating_sub(left.chars().count() + right.chars().count());
    let text = if gap > 0 {
        format!("{left}{}{right}", " ".repeat(gap))
    } else {
        left
    };
    Paragraph::new(text).style(Style::new().add_modifier(Modifier::BOLD))
}

fn draw_line(state: &State, line: Line, width: usize) -> Text<'static> {
    match line {
        Line::Blank => Text::default(),
        Line::Who(p) => {
            let [who, _] = table::about(&state.pools[p]);
            Text::styled(cut(&who, width), colour(state, Color::Cyan))
        }
        Line::Goes(p) => {
            let [_, goes] = table::about(&state.pools[p]);
            Text::from(cut(&format!("  {goes}"), width))
        }
        Line::Columns => {
            let cells = table::COLUMNS.map(|(name, _)| name.to_owned());
            let spans = columns(width)
                .into_iter()
                .map(|c| Span::raw(cell(&cells, c, width)));
            Text::from_iter(spans).style(dim(state))
        }
        Line::Worker(p, w) => {
            let worker = &state.pools[p].workers[w];
            let cells = table::cells(worker);
            let spans = columns(width).into_iter().map(|column| {
                let text = cell(&cells, column, width);
                match column {
                    2 => Span::styled(text, activity(state, worker.state)),
                    6 if worker.failed > 0 => Span::styled(text, colour(state, Color::Red)),
                    _ => Span::raw(text),
                }
            });
            let line = Text::from_iter(spans);
            if state.selected == Some(worker.pid) {
                line.style(Style::new().add_modifier(Modifier::REVERSED))
            } else {
                line
            }
        }
    }
}

/// The columns that a terminal of this width has room for: what matters least goes first.
fn columns(width: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..table::COLUMNS.len()).collect();
    for least in [4, 6, 3, 5, 0] {
        let needed: usize = shown.iter().map(|&c| table::COLUMNS[c].1 + 1).sum();
        if needed + 20 <= width {
            break;
        }
        shown.retain(|&c| c != least);
    }
    shown
}

fn cell(cells: &[String; 9], column: usize, width: usize) -> String {
    let of = table::COLUMNS[column].1;
    if of == 0 {
        let before: usize = columns(width).iter().map(|&c| table::COLUMNS[c].1 + 1).sum();
        let room = width.saturating_sub(before);
        return format!(" {:<room$}", cut(&cells[column], room));
    }
    let text = cut(&cells[column], of);
    if table::is_right_aligned(column) {
        format!(" {text:>of$}")
    } else {
        format!(" {text:<of$}")
    }
}

/// At most this many letters, with a mark where some are missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + if width > 0 { "…" } else { "" }
}

fn colour(state: &State, colour: Color) -> Style {
    if state.colours {
        Style::new().fg(colour)
    } else {
        Style::new()
    }
}

fn dim(_state: &State) -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn activity(state: &State, activity: Activity) -> Style {
    match activity {
        Activity::Running => colour(state, Color::Green),
        Activity::Blocked => colour(state, Color::Yellow),
        Activity::Suspended | Activity::Ended => colour(state, Color::Red),
        _ => Style::new(),
    }
}

fn help(frame: &mut Frame<'_>, state: &State) {
    let lines = HELP
        .iter()
        .map(|(key, what)| Text::from(format!("{key:<10} {what}")))
        .collect();
    popup(frame, state, "keys", lines);
}

fn popup(frame: &mut Frame<'_>, state: &State, title: &str, lines: Vec<Text<'static>>) {
    let area = frame.area();
    let wanted = lines.iter().map(Text::width).max().unwrap_or(0) as u16 + 4;
    let (width, height) = (wanted.min(area.width), (lines.len() as u16 + 2).min(area.height));
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered()
        .title(format!(" {title} "))
        .border_style(colour(state, Color::Cyan));
    let inside: Vec<Text<'static>> = lines
        .into_iter()
        .map(|mut line| {
            line.spans.insert(0, Span::raw(" "));
            line
        })
        .collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(inside).block(block), place);
}

#[cfg(test)]
mod tests {
    use super::super::state::{Key, Wish};
    use super::*;
    use crate::args::SortBy;
    use procession::watch::PoolSnapshot;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;
    use std::path::Path;

    fn pools() -> Vec<PoolSnapshot> {
        serde_json::from_str(include_str!("../../../tests/pools.json")).unwrap()
    }

    fn state() -> State {
        let mut state = State::new(SortBy::Name, 1.0, true);
        state.refresh(pools());
        state
    }

    fn picture(state: &mut State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content().chunks(usize::from(width)).map(|row| {
            let mut line: String = row.iter().map(|cell| cell.symbol()).collect();
            if row
                .first()
                .is_some_and(|c| c.modifier.contains(Modifier::REVERSED))
            {
                line.replace_range(0..1, ">");
            }
            line.trim_end().to_owned() + "\n"
        });
        rows.collect()
    }

    fn golden(name: &str, actual: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, actual).unwrap();
        }
        assert_eq!(
            actual,
            std::fs::read_to_string(&path).unwrap_or_default(),
            "{name}"
        );
    }

    #[test]
    fn pools_and_their_workers_are_listed_and_the_cursor_stands_on_the_first() {
        golden("top-wide.txt", &picture(&mut state(), 110, 16));
    }

    #[test]
    fn a_narrow_terminal_keeps_what_matters_most() {
        golden("top-narrow.txt", &picture(&mut state(), 60, 14));
    }

    #[test]
    fn any_size_is_drawn_without_a_panic() {
        let mut state = state();
        for over in [
            Over::Nothing,
            Over::Help,
            Over::Stack {
                title: "somebody".into(),
                lines: vec!["File \"a.py\", line 3 in f".into(); 30],
                from: 3,
            },
            Over::ConfirmKill {
                pid: 4712,
                what: "it".into(),
            },
        ] {
            for width in [1, 2, 7, 19, 40, 79, 200] {
                for height in 1..12 {
                    state.over = over.clone();
                    let _ = picture(&mut state, width, height);
                }
            }
        }
    }

    #[test]
    fn keys_move_sort_and_reverse() {
        let mut state = state();
        state.press(Key::Down);
        assert_eq!(state.selected, Some(4713));
        state.press(Key::Letter('s'));
        assert_eq!(state.sort, SortBy::Age);
        let by_age: Vec<u32> = state.pools[0].workers.iter().map(|w| w.pid).collect();
        assert_eq!(by_age, [4713, 4712, 4714]);
        state.press(Key::Letter('r'));
        let reversed: Vec<u32> = state.pools[0].workers.iter().map(|w| w.pid).collect();
        assert_eq!(reversed, [4714, 4712, 4713]);
        assert_eq!(state.selected, Some(4713), "the cursor stays on its worker");
        state.press(Key::Last);
        assert_eq!(state.selected, Some(902));
        assert_eq!(state.press(Key::Letter('q')), Some(Wish::Quit));
    }

    #[test]
    fn a_kill_is_asked_for_before_it_is_done() {
        let mut state = state();
        assert_eq!(state.press(Key::Letter('x')), None);
        golden("top-kill.txt", &picture(&mut state, 90, 16));
        assert_eq!(state.press(Key::Escape), None);
        state.press(Key::Letter('x'));
        let Some(Wish::Signal { pid, signal, .. }) = state.press(Key::Letter('y')) else {
            panic!("y kills");
        };
        assert_eq!((pid, signal), (4712, 9));
    }

    #[test]
    fn suspending_a_suspended_worker_lets_it_go_on() {
        let mut state = state();
        let signal_of = |state: &mut State| match state.press(Key::Letter('z')) {
            Some(Wish::Signal { signal, .. }) => signal,
            other => panic!("{other:?}"),
        };
        assert_eq!(signal_of(&mut state), 19);
        state.selected = Some(902);
        assert_eq!(signal_of(&mut state), 18);
    }

    #[test]
    fn no_pool_and_help_are_told_in_words() {
        let mut state = State::new(SortBy::Name, 0.25, false);
        let empty = picture(&mut state, 80, 4);
        state.press(Key::Letter('?'));
        golden("top-help.txt", &(empty + "\n" + &picture(&mut state, 80, 14)));
    }
}
