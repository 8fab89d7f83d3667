//! How far a download is: a bar on a terminal, lines elsewhere.

use std::io::{self, IsTerminal};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Percent between two lines where there is no terminal; a log of 10 lines a file is readable.
const PERCENT_PER_LINE: u64 = 10;

/// Shows how far a download is.
#[derive(Debug)]
pub enum Progress {
    /// A bar that is drawn over.
    Bar(ProgressBar),
    /// A line now and then.
    Lines(Lines),
    /// Nothing.
    Silent,
}

/// What the next line is about.
#[derive(Debug, Default)]
pub struct Lines {
    name: String,
    total: u64,
    next_percent: u64,
}

impl Progress {
    /// A bar where stderr is a terminal, lines where it is not.
    pub fn to_stderr() -> Self {
        if io::stderr().is_terminal() {
            Self::Bar(ProgressBar::no_length())
        } else {
            Self::Lines(Lines::default())
        }
    }

    pub(super) fn start(&mut self, name: &str, received: u64, total: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_style(
                    ProgressStyle::with_template(
                        "{prefix} {wide_bar:.cyan/dim} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
                    )
                    .expect("the template is well-formed"),
                );
                bar.set_prefix(name.to_owned());
                bar.set_length(total);
                bar.set_position(received);
                // What was there before says nothing about the speed.
                bar.reset_eta();
            }
            Self::Lines(lines) => {
                *lines = Lines {
                    name: name.to_owned(),
                    total,
                    next_percent: 0,
                };
                lines.at(received);
            }
            Self::Silent => {}
        }
    }

    pub(super) fn at(&mut self, received: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(received),
            Self::Lines(lines) => lines.at(received),
            Self::Silent => {}
        }
    }

    pub(super) fn note(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.println(text),
            Self::Lines(lines) => eprintln!("{}: {text}", lines.name),
            Self::Silent => {}
        }
    }

    pub(super) fn end(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn at(&mut self, received: u64) {
        let percent = received * 100 / self.total.max(1);
        if percent < self.next_percent {
            return;
        }
        self.next_percent = (percent / PERCENT_PER_LINE + 1) * PERCENT_PER_LINE;
        eprintln!(
            "{}: {percent} %, {} of {}",
            self.name,
            HumanBytes(received),
            HumanBytes(self.total)
        );
    }
}
