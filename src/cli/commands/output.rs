//! Where commands write: text for people or JSON for programs, in colour or not, to any writer.
//!
//! In: lines, tables, progress, JSON. Out: bytes, or a [`Stop`]: whoever reads may have gone (`| head`), which is no
//! failure.

use std::io::{self, IsTerminal, Write};

use anstyle::Style;
use clap::ColorChoice;
use serde::Serialize;

use super::super::exit::Failure;
use crate::admin::AdminError;

/// Erases the terminal's current line.
const ERASE_LINE: &str = "\r\x1b[2K";

/// Why a command ends before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed.
    Failed(Failure),
    /// Nobody reads its output any more.
    PipeClosed,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<AdminError> for Stop {
    fn from(error: AdminError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::PipeClosed,
            _ => Self::Failed(Failure::internal("the output cannot be written", error)),
        }
    }
}

/// What every step of a command gives.
pub(super) type Done<T = ()> = Result<T, Stop>;

/// A command's output.
pub(super) struct Output {
    to: Box<dyn Write>,
    /// JSON is asked for.
    pub(super) json: bool,
    /// Text is in colour.
    pub(super) colour: bool,
    /// Progress is drawn in one line, again and again.
    redraw: bool,
    /// What that line shows at the moment.
    drawn: String,
}

impl Output {
    /// The process's standard output.
    pub(super) fn stdout(json: bool, colour: ColorChoice) -> Self {
        let terminal = io::stdout().is_terminal();
        let given = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let colour = match colour {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !given("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
        };
        Self::to(Box::new(io::stdout()), json, colour, terminal)
    }

    /// Any writer.
    pub(super) fn to(to: Box<dyn Write>, json: bool, colour: bool, redraw: bool) -> Self {
        Self { to, json, colour: colour && !json, redraw: redraw && !json, drawn: String::new() }
    }

    /// One line of text.
    pub(super) fn line(&mut self, text: &str) -> Done {
        if !self.drawn.is_empty() {
            self.drawn.clear();
            write!(self.to, "{ERASE_LINE}")?;
        }
        writeln!(self.to, "{text}")?;
        Ok(self.to.flush()?)
    }

    /// Bytes as they are, no line end after them.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Done {
        self.to.write_all(bytes)?;
        Ok(self.to.flush()?)
    }

    /// One JSON document, on one line.
    pub(super) fn document(&mut self, document: &impl Serialize) -> Done {
        let text = serde_json::to_string(document)
            .map_err(|error| Failure::internal("the answer cannot be written as JSON", error))?;
        self.line(&text)
    }

    /// How far something is: drawn over what it said before, or a line of its own where that is not possible.
    pub(super) fn progress(&mut self, text: &str) -> Done {
        if !self.redraw {
            return self.line(text);
        }
        if self.drawn != text {
            text.clone_into(&mut self.drawn);
            write!(self.to, "{ERASE_LINE}{text}")?;
            self.to.flush()?;
        }
        Ok(())
    }

    /// Whether [`Self::progress`] draws over what it said before: then it may also show what changes all the time.
    pub(super) fn redraws(&self) -> bool {
        self.redraw
    }

    /// The text in this style, where colours are wanted.
    pub(super) fn paint(&self, style: Style, text: &str) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Rows below their titles, in columns two spaces apart.
    pub(super) fn table(&mut self, table: &Table) -> Done {
        for line in table.lines(self.colour) {
            self.line(&line)?;
        }
        Ok(())
    }
}

impl Drop for Output {
    /// What follows on the terminal, such as why a command failed, begins on a line of its own.
    fn drop(&mut self) {
        if !self.drawn.is_empty() {
            let _ = writeln!(self.to).and_then(|()| self.to.flush());
        }
    }
}

/// One cell.
pub(super) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    /// A number: to the right.
    pub(super) fn number(number: impl std::fmt::Display) -> Self {
        Self { text: number.to_string(), style: Style::new(), right: true }
    }

    /// The same cell in this style.
    pub(super) fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new(), right: false }
    }
}

/// Rows of cells.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table below these titles.
    pub(super) fn titled(titles: &[&str]) -> Self {
        let titles = titles.iter().map(|title| Cell::from(*title).styled(Style::new().dimmed())).collect();
        Self { rows: vec![titles] }
    }

    /// One more row.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// As text. A title stands over its column's numbers as they do.
    fn lines(&self, colour: bool) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> =
            (0..columns).map(|c| cells(c).map(|cell| cell.text.chars().count()).max().unwrap_or(0)).collect();
        let right: Vec<bool> = (0..columns).map(|c| cells(c).any(|cell| cell.right)).collect();
        let line = |row: &Vec<Cell>| {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let gap = widths[column] - cell.text.chars().count();
                let style = cell.style;
                let text = if colour { format!("{style}{}{style:#}", cell.text) } else { cell.text.clone() };
                let (before, after) = if right[column] { (gap, 0) } else { (0, gap) };
                line.push_str(&format!("{:before$}{text}{:after$}  ", "", ""));
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use anstyle::AnsiColor;

    use super::*;

    /// What was written, to be looked at.
    #[derive(Clone, Default)]
    pub(in super::super) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(in super::super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        /// An output that writes here.
        pub(in super::super) fn output(&self, json: bool, colour: bool, redraw: bool) -> Output {
            Output::to(Box::new(self.clone()), json, colour, redraw)
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe whose reader has gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn table() -> Table {
        let mut table = Table::titled(&["node", "held"]);
        table.row(vec![Cell::from("a").styled(AnsiColor::Green.on_default()), Cell::number(7)]);
        table.row(vec!["longer".into(), Cell::number(21)]);
        table
    }

    #[test]
    fn columns_line_up_and_numbers_stand_to_the_right() {
        assert_eq!(table().lines(false), ["node    held", "a          7", "longer    21"]);
    }

    #[test]
    fn colour_changes_no_column() {
        let coloured = table().lines(true);
        assert!(coloured[1].contains("\u{1b}[32ma\u{1b}[0m"), "{coloured:?}");
        let mut plain = String::new();
        let mut escaped = false;
        for c in coloured[1].chars() {
            match c {
                '\u{1b}' => escaped = true,
                'm' if escaped => escaped = false,
                c if !escaped => plain.push(c),
                _ => {}
            }
        }
        assert_eq!(plain, "a          7");
    }

    #[test]
    fn progress_is_one_line_per_change_or_drawn_over() {
        let (lines, redrawn) = (Written::default(), Written::default());
        for (written, redraw) in [(&lines, false), (&redrawn, true)] {
            let mut output = written.output(false, false, redraw);
            output.progress("2 left").unwrap();
            output.progress("1 left").unwrap();
            output.line("done").unwrap();
        }
        assert_eq!(lines.text(), "2 left\n1 left\ndone\n");
        assert_eq!(redrawn.text(), "\r\u{1b}[2K2 left\r\u{1b}[2K1 left\r\u{1b}[2Kdone\n");
    }

    #[test]
    fn what_was_drawn_last_stays_on_a_line_of_its_own() {
        let written = Written::default();
        written.output(false, false, true).progress("2 left").unwrap();
        assert_eq!(written.text(), "\r\u{1b}[2K2 left\n");
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure() {
        let mut output = Output::to(Box::new(Gone), false, false, false);
        assert!(matches!(output.line("x"), Err(Stop::PipeClosed)));
        let full: Stop = io::Error::from(io::ErrorKind::StorageFull).into();
        assert!(matches!(full, Stop::Failed(_)));
    }
}
