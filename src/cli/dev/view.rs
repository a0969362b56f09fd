//! The live view, drawn: nodes, the partitions coloured by owner, moves, events. Pure: a [`Picture`] in, a frame out.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Borders, Cell as TableCell, Paragraph, Row, Table, Wrap};

use super::super::told;
use super::board::{Board, Cell};
use super::member::{Member, State};

/// One colour a node, the same again after the last.
const COLOURS: [Color; 10] = [
    Color::Cyan,
    Color::Yellow,
    Color::Green,
    Color::Magenta,
    Color::Blue,
    Color::LightRed,
    Color::LightCyan,
    Color::LightGreen,
    Color::LightMagenta,
    Color::LightBlue,
];
const BAR_COLUMNS: usize = 16;
/// Partitions in one row of the picture, and how many columns each takes, while they are few enough.
const CELLS_PER_ROW: usize = 16;
const CELL_COLUMNS: u16 = 3;
const CELL_ROWS_MAX: usize = 8;
const LABEL_COLUMNS: u16 = 5;
/// What the events need beside the list of things to try.
const EVENT_LINES_MIN: u16 = 8;
const KEYS: &str = " ↑↓ 1-9 node · a add · s stop · k kill · r restart · f freeze · t try · q quit";

/// Everything that is shown.
pub(super) struct Picture<'a> {
    pub(super) title: String,
    pub(super) members: &'a [Member],
    pub(super) board: &'a Board,
    pub(super) selected: usize,
    /// What to try is wanted in the place of everything else.
    pub(super) wants_try: bool,
    pub(super) to_try: &'a [String],
}

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, picture: &Picture<'_>) {
    let node_lines = to_u16(picture.members.len()).saturating_add(3);
    let cell_lines = to_u16(rows_of(&picture.board.cells)).saturating_add(2);
    let parts = [
        Constraint::Length(1),
        Constraint::Length(node_lines),
        Constraint::Length(cell_lines),
        Constraint::Min(3),
        Constraint::Length(1),
    ];
    let [title, nodes, partitions, rest, keys] = Layout::vertical(parts).areas(frame.area());
    frame.render_widget(Line::from(picture.title.as_str()).bold(), title);
    if picture.wants_try {
        draw_try(frame, nodes.union(rest), picture);
    } else {
        draw_nodes(frame, nodes, picture);
        draw_partitions(frame, partitions, picture);
        draw_rest(frame, rest, picture);
    }
    frame.render_widget(Line::from(KEYS).fg(Color::DarkGray), keys);
}

fn framed(title: impl Into<Line<'static>>) -> Block<'static> {
    Block::bordered().border_type(BorderType::Rounded).border_style(Color::DarkGray).title(title)
}

fn to_u16(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn colour(at: usize) -> Color {
    COLOURS[at % COLOURS.len()]
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let held: Vec<usize> = picture.members.iter().map(|member| picture.board.held(&member.name)).collect();
    let most = held.iter().copied().max().unwrap_or(0).max(1);
    let header = Row::new(["", "#", "node", "zone", "state", "http", "pid", "partitions", "req/s"]).fg(Color::DarkGray);
    let rows = picture.members.iter().zip(&held).enumerate();
    let rows = rows.map(|(at, (member, held))| node_row(at, member, (*held, most), at == picture.selected));
    let widths = [
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(10),
        Constraint::Length(4),
        Constraint::Length(10),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(to_u16(BAR_COLUMNS) + 5),
        Constraint::Min(5),
    ];
    frame.render_widget(Table::new(rows, widths).header(header).block(framed(" nodes ")), area);
}

/// `held` of the `most` that any node holds.
fn node_row(at: usize, member: &Member, (held, most): (usize, usize), selected: bool) -> Row<'_> {
    let tone = match member.state {
        State::Ready => Color::Green,
        State::Starting | State::Draining | State::NotReady(_) => Color::Yellow,
        State::Frozen => Color::LightBlue,
        State::Silent | State::Ended(_) => Color::Red,
    };
    let http = member.address.map_or_else(String::new, |address| format!(":{}", address.port()));
    let pid = member.process.as_ref().map_or_else(String::new, |process| process.pid.to_string());
    let bar = "█".repeat((held * BAR_COLUMNS).div_ceil(most));
    let share = Line::from(vec![Span::raw(format!("{held:>4} ")), Span::raw(bar).fg(colour(at))]);
    let rate = if member.process.is_some() { format!("{:.0}", member.rate) } else { String::new() };
    let cells = [
        TableCell::from(if selected { "▸" } else { " " }),
        TableCell::from((at + 1).to_string()).style(colour(at)),
        TableCell::from(member.name.as_str()),
        TableCell::from(member.zone.as_str()),
        TableCell::from(member.shown().0).style(tone),
        TableCell::from(http),
        TableCell::from(pid),
        TableCell::from(share),
        TableCell::from(rate),
    ];
    Row::new(cells).style(if selected { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() })
}

fn per_row(cells: &[Cell]) -> usize {
    CELLS_PER_ROW.max(cells.len().div_ceil(CELL_ROWS_MAX))
}

fn rows_of(cells: &[Cell]) -> usize {
    cells.len().div_ceil(per_row(cells)).max(1)
}

fn draw_partitions(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let cells = &picture.board.cells;
    let (total, served) = (cells.len(), picture.board.served());
    let title = match (total, total - served) {
        (0, _) => Line::from(" partitions ").fg(Color::DarkGray),
        (_, 0) => Line::from(format!(" {total} partitions, all served ")),
        (_, missing) => Line::from(format!(" {total} partitions, {missing} not served ")).fg(Color::Red),
    };
    let block = framed(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let wide = LABEL_COLUMNS + CELL_COLUMNS * to_u16(CELLS_PER_ROW) + 2;
    let [left, right] = Layout::horizontal([Constraint::Length(wide), Constraint::Min(0)]).areas(inner);
    let fits = per_row(cells) == CELLS_PER_ROW;
    frame.render_widget(Paragraph::new(picture_lines(picture, fits)), if fits { left } else { inner });
    if fits {
        frame.render_widget(Paragraph::new(move_lines(picture, inner.height)), right);
    }
}

fn picture_lines<'a>(picture: &Picture<'a>, numbered: bool) -> Vec<Line<'a>> {
    let cells = &picture.board.cells;
    if cells.is_empty() {
        return vec![Line::from(" no node has said anything yet").fg(Color::DarkGray)];
    }
    let row = per_row(cells);
    let line = |(at, part): (usize, &[Cell])| {
        let label = Span::raw(format!("{:>4} ", at * row)).fg(Color::DarkGray);
        let cells = part.iter().map(|cell| cell_span(picture.members, cell, numbered));
        Line::from_iter(std::iter::once(label).chain(cells))
    };
    cells.chunks(row).enumerate().map(line).collect()
}

/// The owner's number on its colour; `·` while nobody serves it, `>` while it moves.
fn cell_span(members: &[Member], cell: &Cell, numbered: bool) -> Span<'static> {
    let owner = members.iter().position(|member| Some(&member.name) == cell.owner.as_ref());
    let number = owner.map_or_else(|| "?".to_owned(), |at| (at + 1).to_string());
    let sign = if !cell.served {
        "·".to_owned()
    } else if cell.moving {
        ">".to_owned()
    } else {
        number
    };
    let text = if numbered { format!("{sign:^3}") } else { sign.chars().last().unwrap_or('?').to_string() };
    let back = owner.map_or(Color::Gray, colour);
    let style = if cell.served { Style::new().fg(Color::Black).bg(back) } else { Style::new().fg(Color::Red) };
    Span::styled(text, style)
}

fn move_lines(picture: &Picture<'_>, height: u16) -> Vec<Line<'static>> {
    let moves = &picture.board.moves;
    let room = usize::from(height).saturating_sub(1).max(1);
    let mut lines = vec![Line::from(format!("moves under way: {}", moves.len())).fg(Color::DarkGray)];
    let copies = &picture.board.copies;
    // Beside copies, the first few moves have to do.
    let moves_shown = if copies.learners > 0 { room / 2 } else { room };
    lines.extend(moves.iter().take(moves_shown).map(|text| Line::from(text.clone())));
    if let Some(text) = told::copies_together(copies) {
        lines.push(Line::from(format!("copies {text}")).fg(Color::DarkGray));
        let room = usize::from(height).saturating_sub(lines.len() + 1);
        lines.extend(told::copy_lines(copies, room).into_iter().map(Line::from));
    }
    lines
}

/// What to try stands below the events where there is room for both.
fn draw_rest(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    // Lines are broken between words, which may take one more.
    let rows = |line: &String| match line.chars().count().div_ceil(usize::from(area.width).max(1)) {
        broken @ 2.. => broken + 1,
        _ => 1,
    };
    let try_lines = to_u16(picture.to_try.iter().map(rows).sum::<usize>()).saturating_add(1);
    if picture.to_try.is_empty() || area.height < try_lines.saturating_add(EVENT_LINES_MIN) {
        return draw_events(frame, area, picture);
    }
    let [events, to_try] = Layout::vertical([Constraint::Min(0), Constraint::Length(try_lines)]).areas(area);
    draw_events(frame, events, picture);
    draw_try(frame, to_try, picture);
}

/// The latest at the bottom.
fn draw_events(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let events = &picture.board.events;
    let waiting = told::waiting_lines(&picture.board.waiting);
    let room = usize::from(area.height.saturating_sub(2)).saturating_sub(waiting.len());
    let shown = events.iter().skip(events.len().saturating_sub(room)).map(|event| {
        let when = Span::raw(format!("{:>8.1} s  ", event.after.as_secs_f64())).fg(Color::DarkGray);
        Line::from(vec![when, Span::raw(event.text.as_str())])
    });
    let waiting = waiting.iter().map(|text| Line::from(text.as_str()).fg(Color::Red));
    frame.render_widget(Paragraph::new(waiting.chain(shown).collect::<Vec<_>>()).block(framed(" events ")), area);
}

/// Whole lines without a frame beside them, to be copied.
fn draw_try(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let lines: Vec<Line<'_>> = picture.to_try.iter().map(|line| Line::from(line.as_str())).collect();
    let block = framed(" try, in another terminal ").borders(Borders::TOP);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), area);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    use super::super::reading::{MoveSeen, PartitionSeen, Reading};
    use super::*;
    use crate::types::Time;

    const WIDTH: u16 = 80;
    const HEIGHT: u16 = 24;

    fn members(names: &[&str]) -> Vec<Member> {
        let member = |name: &&str| {
            let mut member = Member::new((*name).to_owned(), "a".to_owned(), 0, name.into());
            member.state = State::Ready;
            member.address = Some(([127, 0, 0, 1], 8081).into());
            member
        };
        names.iter().map(member).collect()
    }

    /// Each of `count` partitions with the node whose turn it is, as all running nodes see it.
    fn board(count: usize, nodes: &[&str], running: &[&str]) -> Board {
        let seen = |at: usize| PartitionSeen {
            owner: Some(nodes[at % nodes.len()].to_owned()),
            epoch: 1,
            state: if at == 0 { "moving" } else { "serving" }.to_owned(),
            ..PartitionSeen::default()
        };
        let moves = vec![MoveSeen { partition: 0, to: "node-2".to_owned() }];
        let partitions = (0..count).map(seen).collect();
        let reading = Reading { phase: "active".to_owned(), partitions, moves, ..Reading::default() };
        let mut board = Board::default();
        let said: BTreeMap<_, _> =
            running.iter().map(|node| (*node, (*node == running[0]).then_some(&reading))).collect();
        board.look(&said, Time::ZERO);
        board
    }

    fn drawn(members: &[Member], board: &Board, to_try: &[String], wants_try: bool, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(WIDTH, height)).unwrap();
        let title = "nats-ring dev".to_owned();
        let picture = Picture { title, members, board, selected: 1, wants_try, to_try };
        terminal.draw(|frame| draw(frame, &picture)).unwrap();
        terminal.backend().buffer().clone()
    }

    fn lines(buffer: &Buffer) -> Vec<String> {
        let line = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        (0..buffer.area.height).map(line).collect()
    }

    fn line_with(buffer: &Buffer, text: &str) -> String {
        let lines = lines(buffer);
        lines.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no '{text}': {lines:#?}")).clone()
    }

    #[test]
    fn nodes_are_rows_with_what_they_hold_and_the_selected_one_is_marked() {
        let names = ["node-1", "node-2"];
        let buffer = drawn(&members(&names), &board(64, &names, &names), &[], false, HEIGHT);
        assert!(line_with(&buffer, "node-1").contains("ready      :8081            32 ████████████████ "));
        assert!(line_with(&buffer, "node-2").starts_with("│▸ 2  node-2     a    ready"), "{:#?}", lines(&buffer));
        assert!(line_with(&buffer, "q quit").contains("a add"));
    }

    #[test]
    fn the_picture_has_sixteen_partitions_a_row_coloured_by_owner_and_says_what_moves() {
        let names = ["node-1", "node-2"];
        let buffer = drawn(&members(&names), &board(64, &names, &names), &[], false, HEIGHT);
        line_with(&buffer, " 64 partitions, all served ");
        assert!(line_with(&buffer, "moves under way: 1").starts_with("│   0  >  2  1  2  1  2  1  2"));
        line_with(&buffer, "0: node-1 → node-2 ");
        let at = lines(&buffer).iter().position(|line| line.starts_with("│  16 ")).unwrap();
        let (x, y) = (LABEL_COLUMNS + 2, u16::try_from(at).unwrap());
        assert_eq!((buffer[(x, y)].symbol(), buffer[(x, y)].bg), ("1", COLOURS[0]));
        assert_eq!((buffer[(x + 3, y)].symbol(), buffer[(x + 3, y)].bg), ("2", COLOURS[1]));
    }

    #[test]
    fn what_nobody_serves_is_a_dot_and_counted_in_red() {
        let names = ["node-1", "node-2"];
        let buffer = drawn(&members(&names), &board(64, &names, &["node-1"]), &[], false, HEIGHT);
        line_with(&buffer, " 64 partitions, 32 not served ");
        assert!(line_with(&buffer, "│  16 ").starts_with("│  16  1  ·  1  ·"));
    }

    #[test]
    fn many_partitions_still_fit_one_column_each() {
        let names = ["node-1", "node-2"];
        let buffer = drawn(&members(&names), &board(512, &names, &names), &[], false, 30);
        assert!(line_with(&buffer, "│   0 ").starts_with("│   0 >2121212"), "{:#?}", lines(&buffer));
        assert!(line_with(&buffer, "│ 448 ").contains(&"12".repeat(32)));
    }

    #[test]
    fn the_latest_events_are_shown_and_what_to_try_beside_or_instead_of_them() {
        let names = ["node-1", "node-2"];
        let (members, mut board) = (members(&names), board(64, &names, &names));
        (0..50).for_each(|n| board.note(Duration::from_secs(n), format!("event {n}.")));
        let long = format!("curl {} end", "x".repeat(100));
        let to_try = ["curl localhost:8081/ring".to_owned(), long];
        let small = drawn(&members, &board, &to_try, false, HEIGHT);
        assert!(line_with(&small, "event 49.").starts_with("│    49.0 s  event 49."));
        assert!(!lines(&small).join("").contains("event 1."));
        let instead = drawn(&members, &board, &to_try, true, 20);
        line_with(&instead, "curl localhost:8081/ring");
        assert!(line_with(&instead, "x end").starts_with('x'), "a long line goes on in the next");
        assert!(!lines(&instead).join("").contains("event 49."));
        let tall = drawn(&members, &board, &to_try, false, 40);
        line_with(&tall, "event 49.");
        line_with(&tall, "curl localhost:8081/ring");
        line_with(&tall, "x end");
    }

    #[test]
    fn a_tiny_terminal_and_no_node_at_all_are_no_reason_to_fail() {
        for height in [1, 5, 10] {
            drawn(&[], &Board::default(), &[], false, height);
        }
    }
}
