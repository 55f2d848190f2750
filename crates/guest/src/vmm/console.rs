//! What the kernel of a microVM says, kept for the case that nothing else tells why it ended.

use std::{
    io::Read,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use crate::flow::lock;

/// How much of its end is kept, in bytes. The rest is read and thrown away, however much it is.
const KEPT_BYTES: usize = 8 << 10;
/// Lines of it that are told.
const TOLD_LINES: usize = 6;

/// How a kernel begins to say why it cannot go on.
const PANIC: &str = "Kernel panic - ";

/// The end of what was said on a console.
#[derive(Debug)]
pub(super) struct Console {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Console {
    /// Reads the console to its end.
    pub(super) fn read(mut console: impl Read + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::clone(&kept);
        let reader = thread::spawn(move || {
            let mut piece = [0_u8; 4096];
            while let Ok(count) = console.read(&mut piece)
                && count > 0
            {
                let mut kept = lock(&own);
                kept.extend_from_slice(piece.get(..count).unwrap_or_default());
                let surplus = kept.len().saturating_sub(KEPT_BYTES);
                kept.drain(..surplus);
            }
        });
        Self { kept, reader }
    }

    /// Its last lines, once it has ended.
    pub(super) fn last_words(self) -> String {
        // A reader that crashed has kept what it has kept.
        let _ = self.reader.join();
        last_lines(&lock(&self.kept))
    }
}

fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = |line: &str| -> String { line.chars().filter(|letter| !letter.is_control()).collect() };
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.trim().is_empty()).collect();
    // What follows it are registers, which tell nobody anything.
    if let Some(panic) = lines.iter().find_map(|line| line.find(PANIC).and_then(|at| line.get(at..))) {
        return panic.trim().to_owned();
    }
    let told = lines.get(lines.len().saturating_sub(TOLD_LINES)..).unwrap_or_default();
    told.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_only_the_end_is_kept_and_control_characters_are_not_told() {
        let flood = b"x\n".repeat(1 << 20).into_iter().chain(*b"\x1b[31mgone\r\n\n");
        let console = Console::read(std::io::Cursor::new(flood.collect::<Vec<u8>>()));
        assert_eq!(console.last_words(), "x | x | x | x | x | [31mgone");
    }

    #[test]
    fn of_a_panic_only_its_reason_is_told() {
        let said =
            b"[ 1.0] before\n[ 2.6] Kernel panic - not syncing: sysrq triggered crash\n[ 2.6] RDX: 0\n";
        assert_eq!(last_lines(said), "Kernel panic - not syncing: sysrq triggered crash");
    }
}
