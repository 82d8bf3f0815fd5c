//! The demo's result: the statistics of each carrier, and how they differ from what they should be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::process::Cmd;

/// The statistics of one carrier, in the order of the table.
const FIELDS: [&str; 5] = ["flights", "cancelled", "arrived", "arr_delay_sum", "late15"];

/// Carrier code → its statistics, in the order of [`FIELDS`].
pub type Table = BTreeMap<String, [i64; FIELDS.len()]>;

/// Runs `consume` and keeps the last value of each key.
pub fn consume_table(consume: &Cmd) -> Result<Table> {
    let mut child = consume
        .command()
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{consume}`"))?;
    let stdout = child
        .stdout
        .take()
        .context("no pipe to the child's standard output")?;
    let table =
        fold(BufReader::new(stdout)).with_context(|| format!("reading the output of `{consume}`"));
    // On a bad line the pipe is closed by now, which ends the child.
    let status = child
        .wait()
        .with_context(|| format!("waiting for `{consume}`"))?;
    let table = table?;
    consume.expect_success(status)?;
    Ok(table)
}

fn fold(lines: impl BufRead) -> Result<Table> {
    let mut table = Table::new();
    for line in lines.lines() {
        let line = line?;
        let record: Value =
            serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
        let carrier = record["key"]
            .as_str()
            .with_context(|| format!("no key: {line}"))?;
        if record["value"].is_null() {
            table.remove(carrier);
            continue;
        }
        let value = record["value"]
            .as_str()
            .with_context(|| format!("the value is no text: {line}"))?;
        let value =
            serde_json::from_str(value).with_context(|| format!("the value is no JSON: {line}"))?;
        table.insert(
            carrier.to_owned(),
            statistics(&value).with_context(|| format!("in {line}"))?,
        );
    }
    Ok(table)
}

fn statistics(value: &Value) -> Result<[i64; FIELDS.len()]> {
    let mut numbers = [0; FIELDS.len()];
    for (number, field) in numbers.iter_mut().zip(FIELDS) {
        *number = value[field]
            .as_i64()
            .ok_or_else(|| anyhow!("no whole number `{field}`"))?;
    }
    Ok(numbers)
}

/// Reads what a plain count over the file gives.
pub fn read_expected(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    parse_expected(&text).with_context(|| format!("reading {}", path.display()))
}

fn parse_expected(text: &str) -> Result<Table> {
    let expected: Value = serde_json::from_str(text)?;
    let carriers = expected["by_carrier"]
        .as_object()
        .context("no object `by_carrier`")?;
    let mut table = Table::new();
    for (carrier, value) in carriers {
        table.insert(
            carrier.clone(),
            statistics(value).with_context(|| format!("carrier {carrier}"))?,
        );
    }
    let total: i64 = table.values().map(|[flights, ..]| flights).sum();
    ensure!(
        expected["total"].as_i64() == Some(total),
        "`total` is not the sum of the carriers, {total}"
    );
    Ok(table)
}

/// The flights that were cancelled, of all carriers.
pub fn cancelled(table: &Table) -> i64 {
    table.values().map(|[_, cancelled, ..]| cancelled).sum()
}

/// One sentence for each carrier that differs.
pub fn differences(found: &Table, expected: &Table) -> Vec<String> {
    let mut carriers: Vec<_> = found.keys().chain(expected.keys()).collect();
    carriers.sort();
    carriers.dedup();
    let difference = |carrier: &String| match (found.get(carrier), expected.get(carrier)) {
        (Some(found), Some(expected)) if found == expected => None,
        (Some(found), Some(expected)) => {
            let fields: Vec<_> = FIELDS
                .iter()
                .zip(found.iter().zip(expected))
                .filter(|(_, (found, expected))| found != expected)
                .map(|(field, (found, expected))| {
                    format!("{field} is {found} instead of {expected}")
                })
                .collect();
            Some(format!("{carrier}: {}", fields.join(", ")))
        }
        (Some(_), None) => Some(format!("{carrier}: not expected")),
        (None, _) => Some(format!("{carrier}: missing")),
    };
    carriers.into_iter().filter_map(difference).collect()
}

/// As people read it, with a sum.
pub fn render(table: &Table) -> String {
    let mut text = String::new();
    let mut line = |cells: [&str; 6]| {
        let [carrier, flights, cancelled, arrived, mean, late] = cells;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{carrier:<8}{flights:>10}{cancelled:>11}{arrived:>10}{mean:>17}{late:>15}"
        );
    };
    line([
        "carrier",
        "flights",
        "cancelled",
        "arrived",
        "mean delay (min)",
        "late by 15 min",
    ]);
    let mut sum = [0; FIELDS.len()];
    let mut row = |carrier: &str, numbers: &[i64; FIELDS.len()]| {
        let [flights, cancelled, arrived, delay_sum, late] = *numbers;
        let mean = if arrived == 0 {
            0.0
        } else {
            delay_sum as f64 / arrived as f64
        };
        line([
            carrier,
            &flights.to_string(),
            &cancelled.to_string(),
            &arrived.to_string(),
            &format!("{mean:.2}"),
            &late.to_string(),
        ]);
    };
    for (carrier, numbers) in table {
        row(carrier, numbers);
        for (sum, number) in sum.iter_mut().zip(numbers) {
            *sum += number;
        }
    }
    row("all", &sum);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;

    fn record(key: &str, flights: i64) -> String {
        let value = format!(
            r#"{{"flights":{flights},"cancelled":1,"arrived":2,"arr_delay_sum":-3,"late15":1,"carrier":"{key}"}}"#
        );
        serde_json::json!({ "topic": "carrier-stats", "partition": 0, "offset": 7, "key": key, "value": value })
            .to_string()
    }

    #[test]
    fn the_last_value_of_each_key_counts() {
        let tombstone = r#"{"key":"AA","value":null}"#;
        let lines = [
            record("UA", 1),
            record("AA", 5),
            record("UA", 2),
            tombstone.to_owned(),
        ]
        .join("\n");
        let table = fold(lines.as_bytes()).unwrap();
        assert_eq!(table, Table::from([("UA".to_owned(), [2, 1, 2, -3, 1])]));
    }

    #[test]
    fn lines_that_are_no_statistics_are_errors() {
        for line in [
            "x",
            "{}",
            r#"{"key":"UA","value":{"base64":"AA=="}}"#,
            r#"{"key":"UA","value":"{}"}"#,
        ] {
            assert!(fold(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let table = |rows: &[(&str, i64)]| -> Table {
            rows.iter()
                .map(|(carrier, flights)| ((*carrier).to_owned(), [*flights, 1, 2, 3, 4]))
                .collect()
        };
        let expected = table(&[("AA", 1), ("B6", 2), ("UA", 3)]);
        assert!(differences(&expected, &expected).is_empty());
        assert_eq!(
            differences(&table(&[("AA", 1), ("UA", 4), ("ZZ", 5)]), &expected),
            [
                "B6: missing",
                "UA: flights is 4 instead of 3",
                "ZZ: not expected"
            ]
        );
    }

    #[test]
    fn the_shipped_answer_can_be_read() {
        let context = Context::from_env().unwrap();
        let table = read_expected(
            &context
                .root
                .join("examples/flights/flights-by-carrier.json"),
        )
        .unwrap();
        assert_eq!(table.len(), 16);
        assert!(render(&table).ends_with("\n"));
        assert!(render(&table).contains("all         336776"));
    }

    #[test]
    fn a_wrong_total_is_refused() {
        let text = r#"{"total": 2, "by_carrier": {"AA": {"flights":1,"cancelled":0,"arrived":1,"arr_delay_sum":0,"late15":0}}}"#;
        assert!(parse_expected(text).is_err());
        assert!(parse_expected(&text.replace("\"total\": 2", "\"total\": 1")).is_ok());
    }
}
