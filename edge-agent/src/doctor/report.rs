//! Findings, and a table of them.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing: `configuration`, `runtime`, `model`, `policy`, `credential`, `device`, `fog`, `cloud`, `place` or
    /// `camera`.
    pub area: &'static str,
    /// Which one.
    pub subject: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; absent where all is well.
    pub advice: Option<String>,
}

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should.
    Good,
    /// It works, and will or may not do so for long, or as well.
    Warning,
    /// It does not work.
    Failed,
}

/// A thing that is looked at.
pub(super) struct Subject {
    area: &'static str,
    subject: String,
}

impl Finding {
    /// Begins a finding about a thing.
    #[allow(
        clippy::new_ret_no_self,
        reason = "a finding has a verdict, which comes next"
    )]
    pub(super) fn new(area: &'static str, subject: impl Into<String>) -> Subject {
        Subject {
            area,
            subject: subject.into(),
        }
    }
}

impl Subject {
    pub(super) fn good(self, found: impl Into<String>) -> Finding {
        self.finding(Verdict::Good, found, None)
    }

    pub(super) fn warning(self, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.finding(Verdict::Warning, found, Some(advice.into()))
    }

    pub(super) fn failed(self, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.finding(Verdict::Failed, found, Some(advice.into()))
    }

    fn finding(
        self,
        verdict: Verdict,
        found: impl Into<String>,
        advice: Option<String>,
    ) -> Finding {
        Finding {
            area: self.area,
            subject: self.subject,
            verdict,
            found: found.into(),
            advice,
        }
    }
}

/// A table of findings, and how many are not good.
pub fn render(findings: &[Finding]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(
            ["what", "which", "", "found"]
                .map(|title| Cell::new(title).add_attribute(Attribute::Bold)),
        );
    for finding in findings {
        let (word, color) = match finding.verdict {
            Verdict::Good => ("good", Color::Green),
            Verdict::Warning => ("warning", Color::Yellow),
            Verdict::Failed => ("failed", Color::Red),
        };
        let found = match &finding.advice {
            Some(advice) => format!("{}\n→ {advice}", finding.found),
            None => finding.found.clone(),
        };
        table.add_row(vec![
            Cell::new(finding.area),
            Cell::new(&finding.subject),
            Cell::new(word).fg(color),
            Cell::new(found),
        ]);
    }
    let count = |verdict| {
        let of_verdict = findings.iter().filter(|finding| finding.verdict == verdict);
        of_verdict.count()
    };
    format!(
        "{table}\n{} looked at: {} failed, {} to be warned of",
        findings.len(),
        count(Verdict::Failed),
        count(Verdict::Warning)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_shows_what_to_do() {
        let findings = [
            Finding::new("model", "alexnet").failed("no weights", "run `lab fetch alexnet`"),
            Finding::new("model", "resnet").good("loads"),
        ];
        let table = render(&findings);
        assert!(table.contains("→ run `lab fetch alexnet`"), "{table}");
        assert!(table.ends_with("2 looked at: 1 failed, 0 to be warned of"));
    }
}
