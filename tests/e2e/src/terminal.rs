//! A terminal with a person before it: a program runs in it, words are typed, and the screen is read.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::{SHORT, wait_until};

/// A program in a terminal of its own.
#[derive(Debug)]
pub struct Typed {
    program: Child,
    keys: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Typed {
    /// Starts the program in a terminal of this many rows and columns.
    ///
    /// # Panics
    /// When there can be no terminal, or no such program.
    #[must_use]
    pub fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let keys: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        unlockpt(&keys).expect("a terminal");
        let end = ioctl_tiocgptpeer(&keys, OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&end, size).expect("a terminal");
        let again = || end.try_clone().expect("room for a descriptor");
        let program =
            command.stdin(again()).stdout(again()).stderr(again()).spawn().expect("the program starts");
        drop((command, end));
        let screen = Arc::new(Mutex::new(Vec::new()));
        let keys = File::from(keys);
        let (mut shown, kept) = (keys.try_clone().expect("room for a descriptor"), Arc::clone(&screen));
        // Ends when the last program has closed the terminal.
        std::thread::spawn(move || {
            let mut bytes = [0_u8; 4096];
            while let Ok(count) = shown.read(&mut bytes)
                && count > 0
            {
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&bytes[..count]);
            }
        });
        Self { program, keys, screen }
    }

    /// Presses these keys.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// All that was shown so far.
    #[must_use]
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until these words were shown.
    #[track_caller]
    pub fn wait_for(&self, words: &str) {
        wait_until(SHORT, "the words on the screen", || {
            let screen = self.screen();
            if screen.contains(words) { Ok(()) } else { Err(screen) }
        });
    }

    /// Waits until the program has ended; gives its code.
    ///
    /// # Panics
    /// When it cannot be waited for.
    #[track_caller]
    pub fn code(mut self) -> Option<i32> {
        wait_until(SHORT, "the program to end", || match self.program.try_wait().expect("it is ours") {
            Some(status) => Ok(status.code()),
            None => Err(self.screen()),
        })
    }
}
