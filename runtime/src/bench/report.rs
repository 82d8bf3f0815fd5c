//! What a benchmark says in the end: tables for people, JSON for programs.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Serialize;
use serde_json::Value;

use super::environment::Environment;

/// A row of a table; everything in it goes into the JSON.
pub(super) trait Figures: Serialize {
    /// Names of the columns.
    const COLUMNS: &'static [&'static str];

    /// The cells, in the order of the columns.
    fn cells(&self) -> Vec<String>;
}

/// The results of a benchmark.
#[derive(Serialize)]
pub(super) struct Report {
    benchmark: &'static str,
    environment: Environment,
    settings: Value,
    results: Vec<Section>,
    bounds: Vec<Bound>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Section {
    name: &'static str,
    title: String,
    figures: Vec<Value>,
    #[serde(skip)]
    columns: &'static [&'static str],
    #[serde(skip)]
    rows: Vec<Vec<String>>,
}

/// A bound on a figure, which is reported and never enforced: a busy machine must not fail a build.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Bound {
    what: String,
    measured: f64,
    bound: f64,
    kind: BoundKind,
    is_met: bool,
    #[serde(skip)]
    decimals: usize,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum BoundKind {
    AtLeast,
    AtMost,
}

impl Bound {
    /// The measured figure should not be below `bound`.
    pub(super) fn at_least(what: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self::new(
            what.into(),
            measured,
            bound,
            BoundKind::AtLeast,
            measured >= bound,
        )
    }

    /// The measured figure should not be above `bound`.
    pub(super) fn at_most(what: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self::new(
            what.into(),
            measured,
            bound,
            BoundKind::AtMost,
            measured <= bound,
        )
    }

    fn new(what: String, measured: f64, bound: f64, kind: BoundKind, is_met: bool) -> Self {
        let decimals = if bound >= 100.0 { 0 } else { 2 };
        Self {
            what,
            measured,
            bound,
            kind,
            is_met,
            decimals,
        }
    }

    fn cells(&self) -> [String; 4] {
        let decimals = self.decimals;
        let kind = match self.kind {
            BoundKind::AtLeast => "at least",
            BoundKind::AtMost => "at most",
        };
        [
            self.what.clone(),
            format!("{:.decimals$}", self.measured),
            format!("{kind} {}", self.bound),
            (if self.is_met { "met" } else { "not met" }).to_owned(),
        ]
    }
}

impl Report {
    /// A report without results. `settings` are those that the figures depend on.
    pub(super) fn new(benchmark: &'static str, settings: Value) -> Self {
        Self {
            benchmark,
            environment: Environment::read(),
            settings,
            results: Vec::new(),
            bounds: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a table; one without rows is left out.
    pub(super) fn add<F: Figures>(
        &mut self,
        name: &'static str,
        title: impl Into<String>,
        figures: &[F],
    ) -> anyhow::Result<()> {
        if figures.is_empty() {
            return Ok(());
        }
        self.results.push(Section {
            name,
            title: title.into(),
            figures: figures
                .iter()
                .map(serde_json::to_value)
                .collect::<Result<_, _>>()?,
            columns: F::COLUMNS,
            rows: figures.iter().map(Figures::cells).collect(),
        });
        Ok(())
    }

    /// Adds a bound.
    pub(super) fn bound(&mut self, bound: Bound) {
        self.bounds.push(bound);
    }

    /// Adds a sentence that readers of the figures need.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Writes the JSON to `json_file` if there is one, and the tables, or the JSON, to standard
    /// output.
    pub(super) fn publish(&self, json_file: Option<&Path>, as_json: bool) -> anyhow::Result<()> {
        if let Some(path) = json_file {
            let json = serde_json::to_string_pretty(self)?;
            std::fs::write(path, json + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let mut stdout = std::io::stdout().lock();
        if as_json {
            writeln!(stdout, "{}", serde_json::to_string_pretty(self)?)?;
        } else {
            writeln!(stdout, "{}", self.text())?;
        }
        Ok(())
    }

    /// The tables. They are Markdown, so that they can go into a document as they are.
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.environment.summary());
        for section in &self.results {
            let table = table(
                section.columns.iter().map(ToString::to_string),
                &section.rows,
            );
            text += &format!("\n{}\n\n{table}\n", section.title);
        }
        if !self.bounds.is_empty() {
            let rows: Vec<_> = self
                .bounds
                .iter()
                .map(|bound| bound.cells().to_vec())
                .collect();
            let columns = ["bound", "measured", "required", ""].map(str::to_owned);
            text += &format!("\nBounds\n\n{}\n", table(columns, &rows));
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text
    }
}

fn table(columns: impl IntoIterator<Item = String>, rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(columns.into_iter().collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.clone());
    }
    table
}

/// A number of records a second, for a table.
pub(super) fn rate(per_s: f64) -> String {
    match per_s {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Case {
        name: &'static str,
        ns: f64,
    }

    impl Figures for Case {
        const COLUMNS: &'static [&'static str] = &["case", "ns"];

        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), format!("{:.1}", self.ns)]
        }
    }

    #[test]
    fn a_missed_bound_is_printed_and_kept() {
        let mut report = Report::new("test", serde_json::json!({ "rounds": 3 }));
        report
            .add(
                "cases",
                "The cases",
                &[Case {
                    name: "a",
                    ns: 1.25,
                }],
            )
            .unwrap();
        report.add::<Case>("none", "Nothing", &[]).unwrap();
        report.bound(Bound::at_most("a", 4.5, 4.0));
        report.bound(Bound::at_least("b", 4.5, 4.0));
        report.note("A note.");
        let text = report.text();
        assert!(
            text.contains("| a    | 1.2 |") || text.contains("| a    | 1.3 |"),
            "{text}"
        );
        assert!(text.contains("at most 4") && text.contains("not met") && text.contains("A note."));
        assert!(!text.contains("Nothing"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["results"][0]["figures"][0]["ns"], 1.25);
        assert_eq!(json["bounds"][0]["is_met"], false);
        assert_eq!(json["bounds"][1]["is_met"], true);
        assert_eq!(json["settings"]["rounds"], 3);
    }

    #[test]
    fn rates_are_short() {
        assert_eq!(
            [12.3, 12_340.0, 12_340_000.0].map(rate),
            ["12", "12.3 k", "12.34 M"]
        );
    }
}
