//! The terminal: taken over while the live view is shown, given back as it was; keys become [`Action`]s.

use std::io::{self, IsTerminal};

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt;
use ratatui::DefaultTerminal;

use super::command::Verb;
use super::view::{self, Picture};

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Up,
    Down,
    /// By its place in the list.
    Select(usize),
    Add,
    /// To the selected node.
    Do(Verb),
    /// Stands still or goes on, whichever it does not.
    FreezeOrThaw,
    ToggleTry,
    Quit,
    /// Another size, or a key that means nothing here.
    Redraw,
}

/// The terminal while it is ours.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    events: EventStream,
}

impl Screen {
    /// Whether there is a terminal to draw on and to read keys from.
    pub(super) fn is_possible() -> bool {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        io::stdout().is_terminal() && io::stdin().is_terminal() && !dumb
    }

    /// Takes the terminal over; also a panic gives it back.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()?, events: EventStream::new() })
    }

    pub(super) fn draw(&mut self, picture: &Picture<'_>) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(frame, picture)).map(drop)
    }

    /// The next key. Cancel-safe.
    pub(super) async fn next(&mut self) -> Action {
        match self.events.next().await {
            Some(Ok(Event::Key(key))) => action(key),
            Some(Ok(_)) => Action::Redraw,
            // Without keys nobody could end it.
            Some(Err(_)) | None => Action::Quit,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn action(key: KeyEvent) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::Redraw;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => Action::Quit,
        _ if control => Action::Redraw,
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Up => Action::Up,
        KeyCode::Down => Action::Down,
        KeyCode::Char('a') => Action::Add,
        KeyCode::Char('s') => Action::Do(Verb::Stop),
        KeyCode::Char('k') => Action::Do(Verb::Kill),
        KeyCode::Char('r') => Action::Do(Verb::Restart),
        KeyCode::Char('f') => Action::FreezeOrThaw,
        KeyCode::Char('t' | '?' | 'h') => Action::ToggleTry,
        KeyCode::Char(digit @ '1'..='9') => Action::Select(digit as usize - '1' as usize),
        _ => Action::Redraw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_view_says_and_control_c_ends() {
        let plain = |code| action(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(plain(KeyCode::Char('k')), Action::Do(Verb::Kill));
        assert_eq!(plain(KeyCode::Char('3')), Action::Select(2));
        assert_eq!(plain(KeyCode::Char('q')), Action::Quit);
        assert_eq!(plain(KeyCode::Char('x')), Action::Redraw);
        assert_eq!(action(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Quit);
        assert_eq!(action(KeyEvent::new(KeyCode::Char('k'), KeyModifiers::CONTROL)), Action::Redraw);
    }
}
