//! `gatewayctl policy matrix`: which operations are allowed to which roles, computed from the policy.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use regorus::Value;
use serde_json::{Value as Json, json};

use crate::cli::output::{Exit, Paint, printable};
use crate::cli::policy_diff::{SearchArgs, searched, searched_document};
use crate::cli::policy_eval;
use crate::policy::bundle::{self, Purpose};
use crate::policy::matrix::{self, Cell, Condition, Matrix, MatrixOptions};
use crate::rego::program::Options;

/// Show which operations are allowed to which roles, or any two parts of the input by each other.
#[derive(Debug, clap::Args)]
pub struct MatrixArgs {
    /// Directories, bundles and files with policies and data.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Input path of the rows, such as `input.api.route`. Default: the operation, the route, or method and path.
    #[arg(long, value_name = "INPUT", value_parser = input_path)]
    pub rows: Option<InputPath>,
    /// Input path of the columns. Default: roles, else groups, scopes, claims or the subject.
    #[arg(long, value_name = "INPUT", value_parser = input_path)]
    pub columns: Option<InputPath>,
    /// A request, JSON, that all others are made of: only rows and columns are varied. Default: a cell is allowed if the other
    /// fields can be such that it is.
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// A field that has one value, such as `input.identity.provider="corp"`; what is no JSON is a text. May be repeated.
    #[arg(long, value_name = "INPUT=VALUE", value_parser = fixed)]
    pub fix: Vec<(InputPath, Value)>,
    /// What is asked, and how far the search goes.
    #[command(flatten)]
    pub search: SearchArgs,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = MatrixFormat::Pretty)]
    pub format: MatrixFormat,
}

/// How to print a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MatrixFormat {
    /// For people.
    Pretty,
    /// One object.
    Json,
    /// A table of `always`, `sometimes`, `never`.
    Csv,
    /// A table for a document.
    Markdown,
}

/// Keys below the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPath(Vec<String>);

/// Reads `input.request.headers["x-tenant"]`, with or without `input.`.
fn input_path(text: &str) -> Result<InputPath, String> {
    let wrong = || format!("`{text}` is no input path; write it as `input.request.method`");
    let mut keys = Vec::new();
    let mut rest = text.strip_prefix("input").filter(|rest| rest.starts_with(['.', '['])).unwrap_or(text);
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = quoted.split_once("\"]").ok_or_else(wrong)?;
            keys.push(key.to_owned());
            rest = after;
        } else {
            let plain = rest.strip_prefix('.').unwrap_or(rest);
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            let (key, after) = plain.split_at(end);
            if key.is_empty() || key.contains(['"', ']', '=']) {
                return Err(wrong());
            }
            keys.push(key.to_owned());
            rest = after;
        }
    }
    if keys.is_empty() { Err(wrong()) } else { Ok(InputPath(keys)) }
}

fn fixed(text: &str) -> Result<(InputPath, Value), String> {
    let (path, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` has no value; write it as `input.identity.provider=corp`"))?;
    let value = Value::from_json_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((input_path(path)?, value))
}

/// Runs the command. The matrix goes to `out`.
pub fn run(args: &MatrixArgs, paint: Paint, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let program = bundle::load(&args.paths, Purpose::Develop)?.compile(Options::default())?;
    let entrypoint = program.entrypoint(args.search.decision()).context("name a rule with `--decision`")?;
    let base = args.input.as_deref().map(policy_eval::read_input).transpose()?;
    if base.as_ref().is_some_and(|base| base.as_object().is_err()) {
        bail!("the input has to be an object");
    }
    let options = MatrixOptions {
        contract: args.search.contract(),
        limits: args.search.limits(),
        rows: args.rows.clone().map(|path| path.0),
        columns: args.columns.clone().map(|path| path.0),
        fixed: args.fix.iter().map(|(path, value)| (path.0.clone(), value.clone())).collect(),
        base,
    };
    let mut matrix = matrix::matrix(&program, &entrypoint, &options)?;
    if args.format != MatrixFormat::Json {
        // A policy's texts may hold what moves a terminal's cursor, or ends a line of a table.
        let Matrix { rows, columns, row_paths, column_paths, .. } = &mut matrix;
        for text in [rows, columns, row_paths, column_paths].into_iter().flatten() {
            *text = printable(text);
        }
    }
    let legend = Legend::of(&matrix);
    match args.format {
        MatrixFormat::Pretty => pretty(&matrix, &legend, paint, out)?,
        MatrixFormat::Json => writeln!(out, "{:#}", document(&matrix))?,
        MatrixFormat::Csv => csv(&matrix, out)?,
        MatrixFormat::Markdown => markdown(&matrix, &legend, out)?,
    }
    Ok(Exit::Fine)
}

/// The different conditions, numbered in the order in which they are met.
struct Legend<'a> {
    conditions: Vec<&'a Condition>,
}

impl<'a> Legend<'a> {
    fn of(matrix: &'a Matrix) -> Self {
        let mut conditions: Vec<&Condition> = Vec::new();
        for cell in matrix.cells.iter().flatten() {
            if let Cell::Sometimes(condition) = cell
                && !conditions.iter().any(|known| is_same(known, condition))
            {
                conditions.push(condition);
            }
        }
        Self { conditions }
    }

    fn number(&self, condition: &Condition) -> usize {
        self.conditions.iter().position(|known| is_same(known, condition)).map_or(0, |index| index + 1)
    }

    /// `if 1`, or `any 1` where it is not the column that is granted.
    fn reference(&self, condition: &Condition) -> String {
        let number = self.number(condition);
        if condition.is_granted { format!("if {number}") } else { format!("any {number}") }
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        self.conditions
            .iter()
            .enumerate()
            .map(|(index, condition)| format!("{}  {}", index + 1, sentence(condition)))
    }
}

fn is_same(one: &Condition, other: &Condition) -> bool {
    one.needs == other.needs && one.unless == other.unless && one.is_granted == other.is_granted
}

fn sentence(condition: &Condition) -> String {
    let fields = |fields: &[(String, Value)]| {
        let all: Vec<String> = fields.iter().map(|(path, value)| format!("{path} = {value}")).collect();
        printable(&all.join(", "))
    };
    if !condition.needs.is_empty() {
        let whoever = if condition.is_granted { "" } else { ", whatever the column" };
        format!("if {}{whoever}", fields(&condition.needs))
    } else if condition.unless.is_empty() {
        "by other fields".to_owned()
    } else {
        format!("unless {}", fields(&condition.unless))
    }
}

fn word(cell: &Cell) -> &'static str {
    match cell {
        Cell::Never => "never",
        Cell::Sometimes(_) => "sometimes",
        Cell::Always => "always",
    }
}

fn pretty(matrix: &Matrix, legend: &Legend<'_>, paint: Paint, out: &mut dyn Write) -> anyhow::Result<()> {
    let text = |cell: &Cell| match cell {
        Cell::Never => "-".to_owned(),
        Cell::Sometimes(condition) => legend.reference(condition),
        Cell::Always => "yes".to_owned(),
    };
    let length = |text: &str| text.chars().count();
    let first = matrix.rows.iter().map(|row| length(row)).max().unwrap_or(0);
    let widths: Vec<usize> = matrix.columns.iter().map(|column| length(column).max(5)).collect();
    writeln!(
        out,
        "{}",
        paint.faint(&format!("{} by {}", matrix.row_paths.join(" "), matrix.column_paths.join(" ")))
    )?;
    writeln!(out)?;
    let heads: Vec<String> = matrix
        .columns
        .iter()
        .zip(&widths)
        .map(|(column, width)| paint.strong(&format!("{column:<width$}")))
        .collect();
    writeln!(out, "{:first$}  {}", "", heads.join("  ").trim_end())?;
    for (row, cells) in matrix.rows.iter().zip(&matrix.cells) {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| {
            let padded = format!("{:<width$}", text(cell));
            match cell {
                Cell::Never => paint.faint(&padded),
                Cell::Sometimes(_) => paint.doubtful(&padded),
                Cell::Always => paint.good(&padded),
            }
        });
        let line = format!("{row:<first$}  {}", cells.collect::<Vec<_>>().join("  "));
        writeln!(out, "{}", line.trim_end())?;
    }
    writeln!(out)?;
    for line in legend.lines() {
        writeln!(out, "{line}")?;
    }
    if !legend.conditions.is_empty() {
        writeln!(out)?;
    }
    if matrix.is_cut {
        writeln!(out, "{}", paint.doubtful("there are more rows or columns than these"))?;
    }
    writeln!(out, "{}", paint.faint(&searched(&matrix.searched)))?;
    Ok(())
}

fn document(matrix: &Matrix) -> Json {
    let fields = |fields: &[(String, Value)]| -> Json {
        let all = fields.iter().map(|(path, value)| json!({"path": path, "value": to_json(value)}));
        all.collect::<Vec<_>>().into()
    };
    let cell = |cell: &Cell| match cell {
        Cell::Never | Cell::Always => json!({"allowed": word(cell)}),
        Cell::Sometimes(condition) => json!({
            "allowed": word(cell), "granted": condition.is_granted, "needs": fields(&condition.needs), "unless": fields(&condition.unless),
            "input": to_json(&condition.witness),
        }),
    };
    let cells = matrix.cells.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>());
    json!({
        "rows": {"paths": matrix.row_paths, "values": matrix.rows},
        "columns": {"paths": matrix.column_paths, "values": matrix.columns},
        "cells": cells.collect::<Vec<_>>(),
        "more": matrix.is_cut,
        "searched": searched_document(&matrix.searched),
    })
}

fn to_json(value: &Value) -> Json {
    serde_json::to_value(value).unwrap_or(Json::Null)
}

fn csv(matrix: &Matrix, out: &mut dyn Write) -> anyhow::Result<()> {
    // Quotes where RFC 4180 asks for them; a spreadsheet takes what begins with these signs for a formula.
    let field = |text: &str| {
        let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
        if text.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text
        }
    };
    let head: Vec<String> = matrix.columns.iter().map(|column| field(column)).collect();
    writeln!(out, "{},{}", field(&matrix.row_paths.join(" ")), head.join(","))?;
    for (row, cells) in matrix.rows.iter().zip(&matrix.cells) {
        writeln!(out, "{},{}", field(row), cells.iter().map(word).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

fn markdown(matrix: &Matrix, legend: &Legend<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let plain = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let text = |cell: &Cell| match cell {
        Cell::Never => String::new(),
        Cell::Sometimes(condition) => legend.reference(condition),
        Cell::Always => "yes".to_owned(),
    };
    let columns: Vec<String> = matrix.columns.iter().map(|column| plain(column)).collect();
    writeln!(out, "| | {} |", columns.join(" | "))?;
    writeln!(out, "|---|{}", "---|".repeat(columns.len()))?;
    for (row, cells) in matrix.rows.iter().zip(&matrix.cells) {
        writeln!(out, "| {} | {} |", plain(row), cells.iter().map(text).collect::<Vec<_>>().join(" | "))?;
    }
    writeln!(out)?;
    for (index, condition) in legend.conditions.iter().enumerate() {
        writeln!(out, "{}. {}", index + 1, plain(&sentence(condition)))?;
    }
    writeln!(out, "\n{}", searched(&matrix.searched))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_paths_are_read_as_policies_write_them() {
        for (text, want) in [
            ("input.request.method", Some(vec!["request", "method"])),
            ("identity.roles", Some(vec!["identity", "roles"])),
            ("input.request.headers[\"x-a.b\"]", Some(vec!["request", "headers", "x-a.b"])),
            ("input", Some(vec!["input"])),
            ("", None),
            ("input.", None),
            ("input..a", None),
            ("a[0]", None),
        ] {
            let want = want.map(|keys| InputPath(keys.into_iter().map(str::to_owned).collect()));
            assert_eq!(input_path(text).ok(), want, "{text}");
        }
        assert_eq!(fixed("a.b=5").unwrap().1, Value::from(5));
        assert_eq!(fixed("a.b=corp").unwrap().1, Value::from("corp"));
        assert!(fixed("a.b").is_err());
    }
}
