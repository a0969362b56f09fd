//! All partitions at one look: a letter and a colour per owner, in rows.
//!
//! In: for each partition the number of its owner among the nodes. Out: lines. Without colour the letters say it all.

use anstyle::{AnsiColor, Color, Style};

use super::output::Output;

const SYMBOLS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// For an owner beyond those that have a letter of their own.
const OTHER: char = '*';
/// For a partition that nobody owns.
const NOBODY: char = '.';
/// Backgrounds on which black letters can be read.
const COLOURS: [AnsiColor; 12] = [
    AnsiColor::Green,
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Magenta,
    AnsiColor::BrightBlue,
    AnsiColor::Red,
    AnsiColor::BrightGreen,
    AnsiColor::BrightCyan,
    AnsiColor::BrightYellow,
    AnsiColor::BrightMagenta,
    AnsiColor::White,
    AnsiColor::BrightRed,
];
/// Width of the longest bar.
const BAR_MAX: usize = 32;

/// The letter of a node.
pub(super) fn symbol(node: usize) -> char {
    SYMBOLS.chars().nth(node).unwrap_or(OTHER)
}

/// How cells of a node look.
pub(super) fn style(node: usize) -> Style {
    Style::new().fg_color(Some(Color::Ansi(AnsiColor::Black))).bg_color(Some(COLOURS[node % COLOURS.len()].into()))
}

/// How what nobody serves looks.
pub(super) fn alarm() -> Style {
    AnsiColor::Red.on_default().bold()
}

/// A bar for a share of the most.
pub(super) fn bar(count: usize, most: usize) -> String {
    "#".repeat((count * BAR_MAX.min(most)).div_ceil(most.max(1)))
}

/// Partitions in a row: a picture that is neither a column nor wider than a terminal.
fn columns(partitions: usize) -> usize {
    match partitions {
        0..=128 => 16,
        129..=1024 => 32,
        _ => 64,
    }
}

/// The rows, each after the number of its first partition.
pub(super) fn rows(owners: &[Option<usize>], output: &Output) -> Vec<String> {
    let columns = columns(owners.len());
    // Two characters a cell make the picture about square, one a cell keeps the widest within a terminal.
    let cell = |owner: &Option<usize>| {
        let (symbol, style) = owner.map_or((NOBODY, alarm()), |node| (symbol(node), style(node)));
        output.paint(style, &if columns < 64 { format!("{symbol} ") } else { symbol.to_string() })
    };
    let row = |(number, row): (usize, &[Option<usize>])| {
        let cells: String = row.iter().map(cell).collect();
        format!("{:>6}  {cells}", number * columns).trim_end().to_owned()
    };
    owners.chunks(columns).enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::output::tests::Written;
    use super::*;

    #[test]
    fn each_partition_has_its_owners_letter_at_its_place() {
        let mut owners: Vec<Option<usize>> = (0..20).map(|p| Some(p % 3)).collect();
        owners[17] = None;
        let plain = Written::default().output(false, false, false);
        assert_eq!(rows(&owners, &plain), ["     0  A B C A B C A B C A B C A B C A", "    16  B . A B"]);
    }

    #[test]
    fn colours_are_there_when_wanted_and_never_in_json() {
        let cell = "\u{1b}[30m\u{1b}[42mA \u{1b}[0m";
        assert!(rows(&[Some(0)], &Written::default().output(false, true, false))[0].contains(cell));
        assert_eq!(rows(&[Some(0)], &Written::default().output(true, true, false)), ["     0  A"]);
    }

    #[test]
    fn the_largest_ring_fits_a_terminal_and_more_nodes_than_letters_do_no_harm() {
        let owners: Vec<Option<usize>> = (0..4096).map(|p| Some(p % 100)).collect();
        let plain = Written::default().output(false, false, false);
        let lines = rows(&owners, &plain);
        assert_eq!((lines.len(), lines[0].len()), (64, 72));
        assert!(lines[1].contains(OTHER));
    }

    #[test]
    fn bars_are_in_proportion() {
        assert_eq!((bar(0, 22).len(), bar(22, 22).len(), bar(11, 22).len()), (0, 22, 11));
        assert_eq!((bar(1000, 1000).len(), bar(500, 1000).len(), bar(1, 1000).len(), bar(0, 0).len()), (32, 16, 1, 0));
    }
}
