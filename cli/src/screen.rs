//! A screen that is drawn again and again, until a person has seen enough.
//!
//! Each picture is one write over the one before, without clearing first, so that nothing flickers. The terminal is left as
//! it was found, however this ends but for SIGKILL.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// Another screen than that of the shell, without the cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Where nobody says how large the terminal is.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// Whether standard output is a screen.
pub(crate) fn is_one() -> bool {
    std::io::stdout().is_terminal()
}

/// Shows what `look` says, again each time `every` has passed, until q, Ctrl-C or SIGTERM.
pub(crate) async fn watch(look: impl AsyncFn() -> String, every: Duration) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io(format!("cannot draw: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let _screen = Screen::enter().map_err(failed)?;
    let enough = tokio::task::spawn_blocking(until_q);
    tokio::pin!(enough);
    loop {
        let next = async {
            let text = look().await;
            let size = tcgetwinsize(std::io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
            let (columns, rows) = size.map_or((COLUMNS, ROWS), |size| (size.ws_col.into(), size.ws_row.into()));
            write(&frame(&text, columns, rows))?;
            tokio::time::sleep(every).await;
            Ok(())
        };
        tokio::select! {
            drawn = next => drawn.map_err(failed)?,
            _ = &mut enough => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Reads keys until q. Without a keyboard it never returns.
fn until_q() {
    let mut stdin = std::io::stdin().lock();
    let mut key = [0];
    while stdin.is_terminal() && matches!(stdin.read(&mut key), Ok(1)) {
        if matches!(key, [b'q' | b'Q']) {
            return;
        }
    }
    loop {
        std::thread::park();
    }
}

/// One picture: every line is cut to the width, the rest of the line and of the screen is cleared behind the text.
fn frame(text: &str, columns: usize, rows: usize) -> String {
    let lines: Vec<String> = text.lines().take(rows).map(|line| line.chars().take(columns).collect()).collect();
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

/// The terminal while it is drawn on.
struct Screen {
    before: Option<Termios>,
}

impl Screen {
    fn enter() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let before = if stdin.is_terminal() { Some(tcgetattr(&stdin)?) } else { None };
        if let Some(before) = &before {
            let mut keys = before.clone();
            keys.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
            tcsetattr(&stdin, OptionalActions::Now, &keys)?;
        }
        let screen = Self { before };
        write(ENTER)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done about a closed terminal.
        let _ = write(LEAVE);
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_the_screen_and_clears_only_what_is_left_of_the_last() {
        assert_eq!(frame("abc\nCần Thơ\nthird", 4, 2), "\x1b[Habc\x1b[K\r\nCần \x1b[K\x1b[J");
        assert!(!frame("a", 4, 2).contains("\x1b[2J"));
    }
}
