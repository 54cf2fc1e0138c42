//! What is going on, on standard error, with the seconds it takes.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

static BEGUN: OnceLock<Instant> = OnceLock::new();

/// Says one line, with the seconds since the first.
pub(crate) fn say(line: &str) {
    let seconds = BEGUN.get_or_init(Instant::now).elapsed().as_secs_f64();
    eprintln!("[{seconds:6.1} s] {line}");
}

/// A long step. While it runs its seconds are counted on a terminal; elsewhere a line appears every 15 s.
pub(crate) struct Step {
    what: String,
    begun: Instant,
    over: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl Step {
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        say(&format!("{what} ..."));
        let (begun, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let ticker = spawn({
            let (what, over) = (what.clone(), Arc::clone(&over));
            move || tick(&what, begun, &over)
        });
        Self { what, begun, over, ticker: Some(ticker) }
    }

    pub(crate) fn done(self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let what = self.what.clone();
        drop(self);
        say(&format!("{what}: done in {seconds:.1} s"));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
    }
}

fn tick(what: &str, begun: Instant, over: &AtomicBool) {
    let terminal = std::io::stderr().is_terminal();
    let mut said = 0;
    while !over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(100));
        let seconds = begun.elapsed().as_secs();
        if seconds == said || seconds == 0 {
            continue;
        }
        if terminal {
            eprint!("\r           {what} {seconds} s\r");
        } else if seconds.is_multiple_of(15) {
            say(&format!("{what}: {seconds} s"));
        }
        said = seconds;
    }
}
