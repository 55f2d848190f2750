//! The `rikctl` program: hands its arguments and streams to the library and exits with what that says.

use std::process::ExitCode;

fn main() -> ExitCode {
    rikctl::run(std::env::args_os(), &mut rikctl::Terminal::standard()).into()
}
