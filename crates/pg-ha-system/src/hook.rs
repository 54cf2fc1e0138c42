//! What every hook does first: outlive its caller, and end within its own deadline.

use std::io;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use pg_ha_rules::exit::Exit;

use crate::clock::Deadline;

/// Ends the program with `Exit::Deadline` when the deadline passes, whatever hangs.
///
/// The thread that keeps it touches neither disk nor network.
pub fn end_by(deadline: Deadline, program: &'static str) -> io::Result<()> {
    let watch = move || {
        while !deadline.passed() {
            std::thread::sleep(deadline.remaining().min(Duration::from_secs(1)));
        }
        log::error!("{program} did not end by its deadline");
        exit(Exit::Deadline)
    };
    std::thread::Builder::new().name("deadline".to_owned()).spawn(watch).map(drop)
}

/// Makes this process survive its caller: keepalived ends its scripts with itself (PDEATHSIG), a stop of its unit
/// sends TERM, and a promotion that has begun must not end half way.
#[expect(unsafe_code, reason = "ignoring a signal; no handler of ours runs")]
pub fn survive_caller() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(None)?;
    // Fails where this process leads its group already, which serves as well.
    let _ = nix::unistd::setsid();
    for which in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGPIPE] {
        // SAFETY: SigIgn installs no handler, so nothing of ours runs in a signal's context.
        unsafe { signal(which, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Ends the process with `exit`'s code.
pub fn exit(exit: Exit) -> ! {
    std::process::exit(i32::from(exit.code()))
}
