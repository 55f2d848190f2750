//! The one program of both sides: as `/init` it is the agent, by other names what its first argument says.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args();
    match (args.next().as_deref(), args.next().as_deref()) {
        (Some("/init"), _) => guest::agent::main(),
        (_, Some("copy")) => guest::agent::copy(),
        (_, Some("supervise")) => guest::vmm::supervise(),
        (_, Some("session")) => guest::vmm::session(),
        _ => {
            eprintln!("rik-guest is a part of RIK; the riklet runs it");
            ExitCode::FAILURE
        }
    }
}
