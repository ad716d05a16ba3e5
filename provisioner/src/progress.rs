//! Progress for people, on standard error when it is a terminal; Ctrl-C asks the work to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lekiwi_provisioner::watch::Watch;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::failure::Failure;

/// A bar for each of several pieces of work that go on at once and are stopped together.
pub(crate) struct Bars {
    bars: MultiProgress,
    stop: Arc<AtomicBool>,
}

impl Bars {
    /// No bars yet, and none to be seen if `quiet`. From now on the first Ctrl-C asks the work to stop, the second
    /// ends the program.
    pub(crate) fn start(quiet: bool) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset, the second finds it set.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Ok(Self {
            bars: MultiProgress::with_draw_target(target),
            stop,
        })
    }

    /// One more bar, whose steps are said to be `of` something, such as a card.
    pub(crate) fn bar(&self, of: &str) -> Progress {
        Progress {
            bar: self.bars.add(ProgressBar::no_length()),
            of: of.to_owned(),
            stop: Arc::clone(&self.stop),
        }
    }
}

/// One bar for one piece of work.
pub(crate) struct Progress {
    bar: ProgressBar,
    of: String,
    stop: Arc<AtomicBool>,
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn begin(&self, step: &str, bytes: Option<u64>) {
        let template = match bytes {
            Some(_) => {
                "{msg:24} {bar:30} {bytes:>10} of {total_bytes:10} {bytes_per_sec:>12}, {eta} left"
            }
            None => "{msg:24} {spinner} {bytes:>10} {bytes_per_sec:>12}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        match bytes {
            Some(bytes) => self.bar.set_length(bytes),
            None => self.bar.unset_length(),
        }
        self.bar.reset();
        self.bar
            .set_message(format!("{} {step}", self.of).trim_start().to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
