//! The story as text for a terminal.

use super::after::{After, Next};
use super::seen::{Seen, Signal};
use super::story::{Limit, Story};
use crate::words::{clock, count, duration, list, mbit, ms, number};

/// How text is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Columns.
    pub(super) width: usize,
    /// Whether headings are bold.
    pub(super) is_bold: bool,
}

/// The whole text, with a line end.
pub(super) fn render(story: &Story, layout: Layout) -> String {
    let mut page = Page {
        layout,
        out: String::new(),
    };
    page.paragraph(
        0,
        &format!(
            "{}, {} UTC",
            story.policy,
            story.decided_at.trim_end_matches('Z').replace('T', " ")
        ),
    );
    page.bold(&story.headline);
    page.paragraph(
        0,
        &format!(
            "({}; sequence {} of term {}; law {}, mode {})",
            story.chosen,
            story.sequence,
            story.term,
            story.law,
            if story.mode.is_empty() {
                "unknown"
            } else {
                &story.mode
            },
        ),
    );

    page.heading("What was seen");
    if story.seen.is_empty() {
        page.paragraph(2, "No sample: something else called for this decision.");
    }
    for seen in &story.seen {
        page.seen(seen, story.decided_ms);
    }
    page.sent(story);
    if story.repeats > 0 {
        page.paragraph(
            2,
            &format!(
                "Before it, {} came to the same as the decision before.",
                count(story.repeats, "evaluation")
            ),
        );
    }

    page.heading("What that means");
    for sentence in &story.meaning {
        page.paragraph(2, sentence);
    }
    page.item(
        "In the law's words:",
        &format!("{} {}", story.action, story.reason),
    );

    page.heading(if story.limits.iter().any(Limit::is_changed) {
        "What changed"
    } else {
        "Limits"
    });
    for limit in &story.limits {
        page.item(&format!("{}:", limit.class), &limit_text(limit));
    }

    if !story.learned.is_empty() || story.next_raise.is_some() {
        page.heading("What the law knows now");
        for fact in &story.learned {
            page.item(&format!("{}:", fact.topic), &fact.text);
        }
        if let Some(raise) = &story.next_raise {
            page.item("next raise:", raise);
        }
    }

    page.heading("What happened next");
    page.after(&story.after, story.mode == "Observe");

    page.heading("What you can do");
    for option in &story.options {
        page.item("-", option);
    }
    page.out
}

struct Page {
    layout: Layout,
    out: String,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    fn bold(&mut self, text: &str) {
        let (on, off) = if self.layout.is_bold {
            ("\u{1b}[1m", "\u{1b}[0m")
        } else {
            ("", "")
        };
        for line in wrap(text, self.layout.width) {
            self.line(&format!("{on}{line}{off}"));
        }
    }

    fn heading(&mut self, text: &str) {
        self.out.push('\n');
        self.bold(text);
    }

    fn paragraph(&mut self, indent: usize, text: &str) {
        for line in wrap(text, self.layout.width.saturating_sub(indent)) {
            self.line(&format!("{:indent$}{line}", ""));
        }
    }

    /// A label, and text beside it that is indented where it goes on.
    fn item(&mut self, label: &str, text: &str) {
        let hang = if label.len() <= 1 { 4 } else { 6 };
        let lines = wrap(
            &format!("{label} {text}"),
            self.layout.width.saturating_sub(hang),
        );
        for (number, line) in lines.iter().enumerate() {
            let indent = if number == 0 { 2 } else { hang };
            self.line(&format!("{:indent$}{line}", ""));
        }
    }

    fn seen(&mut self, seen: &Seen, decided_ms: i64) {
        let requests = seen.requests.map_or_else(
            || "requests".to_owned(),
            |requests| format!("{} requests", number(requests.round())),
        );
        let window = match (seen.window_start_ms, seen.window_end_ms) {
            (Some(start_ms), Some(end_ms)) => format!(
                "{requests} from {} to {} ({}), {}",
                clock(start_ms),
                clock(end_ms),
                duration(end_ms.saturating_sub(start_ms)),
                match decided_ms.saturating_sub(end_ms) {
                    age @ 0.. => format!("{} old when it was decided", duration(age)),
                    age => format!("{} in the future: clocks differ", duration(age)),
                },
            ),
            _ => "nothing measured".to_owned(),
        };
        self.item(&format!("{}:", seen.workload), &window);
        if seen.quality != "GOOD" {
            let note = if seen.note.is_empty() {
                "no more is said about it"
            } else {
                &seen.note
            };
            self.paragraph(4, &format!("Quality {}: {note}.", seen.quality));
        }
        for signal in &seen.signals {
            self.line(&format!("    {}", signal_text(signal)));
        }
    }

    /// What classes sent, once: every sample says the same.
    fn sent(&mut self, story: &Story) {
        let mut told: Vec<&str> = Vec::new();
        for sent in story.seen.iter().flat_map(|seen| &seen.sent) {
            if told.contains(&sent.class.as_str()) {
                continue;
            }
            told.push(&sent.class);
            let total = sent
                .total_bps
                .map_or_else(|| "an unknown amount".to_owned(), mbit);
            let before_bps = story
                .limits
                .iter()
                .find(|limit| limit.class == sent.class)
                .and_then(|limit| limit.before_bps);
            let busiest =
                sent.top_pod_bps
                    .filter(|bps| *bps > 0.0)
                    .map_or_else(String::new, |top| {
                        let share = before_bps.map_or_else(String::new, |limit| {
                            format!(", {} % of its limit", number((100.0 * top / limit).round()))
                        });
                        format!("; the busiest {}{share}", mbit(top))
                    });
            let window = sent.window_ms.map_or_else(String::new, |(start, end)| {
                format!(" from {} to {}", clock(start), clock(end))
            });
            self.item(
                &format!("{}:", sent.class),
                &format!(
                    "{} sent {total} in all{window}{busiest}",
                    count(sent.pods.into(), "pod")
                ),
            );
        }
    }

    fn after(&mut self, after: &After, is_observing: bool) {
        for done in &after.outcomes {
            let text = match &done.refused {
                Some(reason) => format!("the actuator refused it ({reason})"),
                None => {
                    let mut parts =
                        vec![format!("{} annotated", count(done.changed.into(), "pod"))];
                    if done.unchanged > 0 {
                        parts.push(format!("{} had it already", done.unchanged));
                    }
                    if done.failed > 0 {
                        parts.push(format!("{} FAILED and are tried again", done.failed));
                    }
                    if done.not_covered > 0 {
                        parts.push(format!(
                            "{} cannot be limited",
                            count(done.not_covered as u64, "pod")
                        ));
                    }
                    list(&parts)
                }
            };
            let took = done
                .took_ms
                .map_or_else(String::new, |took| format!(" in {}", ms(took)));
            self.item(&format!("{}:", done.class), &format!("{text}{took}."));
        }
        if after.outcomes.is_empty() && is_observing {
            self.paragraph(2, "No pod was touched: the policy observes.");
        }
        if after.followed_for_ms == 0 {
            self.paragraph(2, "Nothing was decided after it so far.");
            return;
        }
        match (after.within_targets_after_ms, after.missed_again_after_ms) {
            (Some(within), None) => self.paragraph(2, &format!(
                "Every target was met {} after this decision, and in every later decision ({} on).",
                duration(within), duration(after.followed_for_ms)
            )),
            (Some(within), Some(again)) => self.paragraph(2, &format!(
                "Every target was met {} after this decision; one was missed again {} after it.",
                duration(within), duration(again)
            )),
            (None, _) => self.paragraph(2, &format!(
                "No later decision saw every target met ({} on).",
                duration(after.followed_for_ms)
            )),
        }
        if let Some(reason) = &after.held_because {
            let why = format!("no change yet: {}", short(reason));
            self.item("next:", &why);
        }
        for next in &after.decisions {
            let label = format!("{}, {} later:", clock(next.at_ms), duration(next.after_ms));
            self.item(&label, &next_text(next));
        }
        match (after.more, after.held) {
            (0, 0) => {}
            (0, held) => self.paragraph(
                2,
                &format!("Since then {} changed nothing.", count(held, "evaluation")),
            ),
            (more, _) => self.paragraph(2, &format!("... and {more} more within ten minutes.")),
        }
    }
}

fn signal_text(signal: &Signal) -> String {
    let value = signal
        .value_ms
        .map_or_else(|| "not measured".to_owned(), ms);
    // what the buckets cannot prove is only likely
    let is_proven = |target: f64, value: f64| match value > target {
        true => signal.low_ms.is_none_or(|low| low >= target),
        false => signal.high_ms.is_none_or(|high| high <= target),
    };
    let verdict = match (signal.value_ms, signal.target_ms) {
        (Some(value), Some(target)) => {
            let likely = if is_proven(target, value) {
                ""
            } else {
                "probably "
            };
            match value > target {
                true => format!(
                    "target {}   {likely}MISSED, {} times the target",
                    ms(target),
                    number((10.0 * value / target).round() / 10.0)
                ),
                false => format!("target {}   {likely}met", ms(target)),
            }
        }
        (None, Some(target)) => format!("target {}   not known", ms(target)),
        _ => "(no target)".to_owned(),
    };
    // within a bucket the value is a guess
    let bounds = match (signal.low_ms, signal.high_ms) {
        (Some(low), Some(high)) => {
            format!("   (proven: {} to {})", number(low), ms(high))
        }
        (Some(low), None) => format!("   (proven: above {})", ms(low)),
        _ => String::new(),
    };
    format!("{:<13} {value:>10}   {verdict}{bounds}", signal.metric)
}

fn limit_text(limit: &Limit) -> String {
    let (Some(before), Some(after)) = (limit.before_bps, limit.after_bps) else {
        return "unknown".to_owned();
    };
    let bounds = match (limit.min_bps, limit.max_bps) {
        (Some(min), Some(max)) => {
            let at = match after {
                at if at == min => ", which is the least allowed",
                at if at == max => ", which is the most allowed",
                _ => "",
            };
            format!("{at}. Allowed: {} to {}", number(min / 1e6), mbit(max))
        }
        _ => String::new(),
    };
    let all = |bps: f64| {
        limit
            .pods
            .filter(|pods| *pods > 0)
            .map(|pods| f64::from(pods) * bps)
    };
    if !limit.is_changed() {
        let all = all(after).map_or_else(String::new, |all| {
            format!(" ({} for all pods seen)", mbit(all))
        });
        return format!("stays at {} per pod{all}{bounds}.", mbit(after));
    }
    let all = match (all(before), all(after)) {
        (Some(before), Some(after)) => format!(
            "; in all {} -> {} for {}",
            number(before / 1e6),
            mbit(after),
            count(limit.pods.unwrap_or_default().into(), "pod")
        ),
        _ => String::new(),
    };
    let percent = 100.0 * (after / before - 1.0);
    let percent = if percent.abs() < 10.0 {
        (percent * 10.0).round() / 10.0
    } else {
        percent.round()
    };
    let sign = if percent > 0.0 { "+" } else { "" };
    format!(
        "{} -> {} per pod ({sign}{} %){all}{bounds}.",
        number(before / 1e6),
        mbit(after),
        number(percent)
    )
}

fn next_text(next: &Next) -> String {
    let held = match next.held {
        0 => String::new(),
        held => format!(", after {} without a change", count(held, "evaluation")),
    };
    let changes: Vec<String> = next
        .changes
        .iter()
        .map(|(class, before, after)| {
            format!("{class} {} -> {}", number(before / 1e6), mbit(*after))
        })
        .collect();
    let what = if changes.is_empty() {
        "no change".to_owned()
    } else {
        changes.join(", ")
    };
    format!("{what} ({}{held}): {}", next.action, short(&next.reason))
}

/// A reason without its end, which says the limits.
fn short(reason: &str) -> String {
    let why = reason
        .split(" No limit changes:")
        .next()
        .unwrap_or_default();
    let why = why.rsplit_once(": limits ").map_or(why, |(why, _)| why);
    format!("{}.", why.trim_end_matches('.'))
}

/// Breaks text at spaces into lines of at most `width` columns; longer words stand alone.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let fits = lines.last().is_some_and(|line| {
            line.is_empty() || line.chars().count() + 1 + word.chars().count() <= width
        });
        if !fits {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces() {
        assert_eq!(
            wrap("a bb ccc dddddddd e", 6),
            ["a bb", "ccc", "dddddddd", "e"]
        );
    }

    #[test]
    fn a_missed_target_is_not_to_be_overlooked() {
        let signal = Signal {
            metric: "P95 latency",
            value_ms: Some(97.975),
            target_ms: Some(10.0),
            is_missed: Some(true),
            low_ms: Some(50.0),
            high_ms: Some(100.0),
        };
        assert_eq!(
            signal_text(&signal),
            "P95 latency     97.97 ms   target 10 ms   MISSED, 9.8 times the target   (proven: 50 to 100 ms)"
        );
    }
}
