//! How far a move is, on standard error.

use std::time::{Duration, Instant};

use anabranch_move::{Phase, Progress};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::grouped;

/// How often the line is drawn.
const INTERVAL: Duration = Duration::from_millis(200);

/// The line that tells how far it is.
pub(super) struct View {
    task: JoinHandle<()>,
    bar: ProgressBar,
}

impl View {
    pub(super) async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
        self.bar.finish_and_clear();
    }
}

/// Shows `progress`. Whoever does not look at a terminal is told of the phases only.
pub(super) fn show(progress: watch::Receiver<Progress>, hint: Option<String>, is_quiet: bool) -> View {
    let target = if is_quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(1), target);
    let style = ProgressStyle::with_template("{prefix} {bar:28} {msg}").expect("the template is right");
    bar.set_style(style);
    let drawn = bar.clone();
    let task = tokio::spawn(async move {
        let (began, mut known) = (Instant::now(), None);
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            let now = *progress.borrow();
            if known.replace(now.phase) != Some(now.phase) {
                tell(&drawn, now.phase, hint.as_deref());
            }
            draw(&drawn, &now, began.elapsed());
        }
    });
    View { task, bar }
}

fn tell(bar: &ProgressBar, phase: Phase, hint: Option<&str>) {
    bar.set_prefix(format!("{:<9}", name(phase)));
    if let (Phase::Pausing, Some(hint)) = (phase, hint) {
        match bar.is_hidden() {
            true => eprintln!("{hint}"),
            false => bar.println(hint),
        }
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Planning => "planning",
        Phase::Comparing => "comparing",
        Phase::Copying => "copying",
        Phase::Pausing => "waiting",
        Phase::Still => "the rest",
        Phase::Finishing => "settings",
    }
}

fn draw(bar: &ProgressBar, now: &Progress, took: Duration) {
    let seconds = took.as_secs_f64().max(0.001);
    let rate = now.copied as f64 / seconds;
    bar.set_length(now.total.max(1));
    bar.set_position(now.copied);
    let left = now.total.saturating_sub(now.copied);
    let left = match rate >= 1.0 {
        true => format!(", {} left", HumanDuration(Duration::from_secs_f64(left as f64 / rate))),
        false => String::new(),
    };
    bar.set_message(format!(
        "{} records, {}/s, {:.1} MiB/s{left}",
        grouped(now.copied),
        grouped(rate as u64),
        now.bytes as f64 / seconds / f64::from(1 << 20),
    ));
}
