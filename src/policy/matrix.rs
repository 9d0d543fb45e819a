//! Which requests a policy allows, by two parts of the input: operations by roles, mostly.
//!
//! A cell is allowed where some choice of the other tested fields allows it; which of these fields it takes is found by making
//! an allowed request as small as it gets. Cells are found by search, so that "never" means "not found", unless all was searched.

use regorus::Value;

use super::replay::Outcome;
use super::search::{Answer, Askers, Limits, Search, Searched, simplify};
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::rego::domain::{Choice, Domain, Kind, Point, Policy};
use crate::rego::program::{Entrypoint, Program};

/// What absence is called, and a value that is none of the tested ones.
const NONE: &str = "(none)";
const OTHER: &str = "(other)";
/// Rows and columns of one matrix.
const ROWS_MAX: usize = 200;
const COLUMNS_MAX: usize = 40;
/// Requests made around one cell of which too little is known.
const AROUND_MAX: usize = 300;
/// Parts that depend on the column, around which requests are made for one cell.
const PARTS_MAX: usize = 40;
/// How often requests are made around one of them until one is allowed.
const ROUNDS_MAX: usize = 20;
/// Allowed requests kept of one cell.
const ALLOWED_MAX: usize = 400;

/// What is asked.
#[derive(Debug)]
pub struct MatrixOptions {
    /// What results mean.
    pub contract: Contract,
    /// How far the search goes.
    pub limits: Limits,
    /// Input path of the rows; none takes the operations.
    pub rows: Option<Vec<String>>,
    /// Input path of the columns; none takes the roles.
    pub columns: Option<Vec<String>>,
    /// Fields that have one value.
    pub fixed: Vec<(Vec<String>, Value)>,
    /// A request that all others are made of: nothing but rows and columns is varied.
    pub base: Option<Value>,
}

/// Why there is no matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// The policy compares nothing that could be rows or columns.
    #[error("the policy reads nothing that could be its {axis}; name an input path with `--{axis}`{}", known(.paths))]
    NoAxis {
        /// `rows` or `columns`.
        axis: &'static str,
        /// The paths it reads.
        paths: Vec<String>,
    },
    /// The policy does not read the path.
    #[error("the policy does not read `{path}`{}", known(.paths))]
    NotRead {
        /// What was asked for.
        path: String,
        /// The paths it reads.
        paths: Vec<String>,
    },
    /// Rows and columns are the same.
    #[error("rows and columns are both `{path}`")]
    Same {
        /// The path.
        path: String,
    },
}

fn known(paths: &[String]) -> String {
    if paths.is_empty() { String::new() } else { format!("; it reads `{}`", paths.join("`, `")) }
}

/// The matrix.
#[derive(Debug)]
pub struct Matrix {
    /// Input paths of the rows.
    pub row_paths: Vec<String>,
    /// Input paths of the columns.
    pub column_paths: Vec<String>,
    /// What each row stands for.
    pub rows: Vec<String>,
    /// What each column stands for.
    pub columns: Vec<String>,
    /// By row, then by column.
    pub cells: Vec<Vec<Cell>>,
    /// Rows or columns were left out.
    pub is_cut: bool,
    /// How far the search went.
    pub searched: Searched,
}

/// Whether a row's operation is allowed to a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No request that is allowed was found.
    Never,
    /// Allowed by what else the request has.
    Sometimes(Condition),
    /// No request was found that is denied.
    Always,
}

/// What it takes besides row and column.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The request is denied with another value in the column's place: it is this one that is granted.
    pub is_granted: bool,
    /// Fields that a smallest allowed request has besides; without any one of them it is denied.
    pub needs: Vec<(String, Value)>,
    /// Where none is needed: a smallest set of fields that deny.
    pub unless: Vec<(String, Value)>,
    /// The allowed request.
    pub witness: Value,
}

/// What is known of one cell while searching.
#[derive(Debug, Clone, Default)]
struct Tally {
    /// Requests that are allowed; some, since what grants one may be something else than the column.
    allowed: Vec<Point>,
    /// One of them that is denied with any other value in the column's place.
    granted: Option<Point>,
    denied: Option<Point>,
}

/// Rows or columns: one or two dimensions, and their choices.
struct Axis {
    dimensions: Vec<usize>,
    paths: Vec<String>,
    steps: Vec<(Vec<u16>, String)>,
}

/// Computes the matrix of a rule.
pub fn matrix(
    program: &Program,
    entrypoint: &Entrypoint,
    options: &MatrixOptions,
) -> Result<Matrix, MatrixError> {
    let mut domain = Domain::of(&[Policy { program, entrypoint }]);
    for (path, value) in &options.fixed {
        domain.fix(path, value);
    }
    let (rows, columns) = axes(&mut domain, options)?;
    let mut is_cut = false;
    let mut steps = |axis: Axes, most: usize| {
        let mut made = Axis::new(&domain, axis);
        is_cut |= made.steps.len() > most;
        made.steps.truncate(most);
        made
    };
    let (rows, columns) = (steps(rows, ROWS_MAX), steps(columns, COLUMNS_MAX));
    let axes: Vec<usize> = rows.dimensions.iter().chain(&columns.dimensions).copied().collect();
    let base = options.base.clone().unwrap_or_else(Value::new_object);
    if options.base.is_some() {
        domain.pin_all_but(&axes);
    }
    let mut askers = Askers::new(&[program], &domain, options.limits);
    let mut finder = Finder {
        domain: &domain,
        base: &base,
        contract: options.contract,
        tallies: vec![vec![Tally::default(); columns.steps.len()]; rows.steps.len()],
        rows: &rows,
        columns: &columns,
        axes: &axes,
    };
    let searched = finder.search(&mut askers);
    let cells = finder.cells(&mut askers, options.base.is_some());
    let labels = |axis: &Axis| axis.steps.iter().map(|(_, label)| label.clone()).collect();
    Ok(Matrix {
        rows: labels(&rows),
        columns: labels(&columns),
        row_paths: rows.paths.clone(),
        column_paths: columns.paths.clone(),
        cells,
        is_cut,
        searched,
    })
}

/// The dimensions of an axis.
type Axes = Vec<usize>;

fn axes(domain: &mut Domain, options: &MatrixOptions) -> Result<(Axes, Axes), MatrixError> {
    let envoy = ["attributes", "request", "http"];
    let rows: &[&[&[&str]]] = match options.contract {
        Contract::GatewayV1 => &[
            &[&["api", "operation"]],
            &[&["api", "route"]],
            &[&["request", "method"], &["request", "path"]],
            &[&["request", "path"]],
            &[&["request", "segments"]],
            &[&["request", "method"]],
        ],
        Contract::EnvoyV3 => &[
            &[&[envoy[0], envoy[1], envoy[2], "method"], &["parsed_path"]],
            &[&[envoy[0], envoy[1], envoy[2], "method"], &[envoy[0], envoy[1], envoy[2], "path"]],
            &[&["gateway", "api", "route"]],
            &[&["parsed_path"]],
            &[&[envoy[0], envoy[1], envoy[2], "path"]],
            &[&[envoy[0], envoy[1], envoy[2], "method"]],
        ],
    };
    let columns: &[&[&[&str]]] = match options.contract {
        Contract::GatewayV1 => &[
            &[&["identity", "roles"]],
            &[&["identity", "groups"]],
            &[&["identity", "scopes"]],
            &[&["identity", "claims"]],
            &[&["identity", "subject"]],
            &[&["identity", "provider"]],
            &[&["identity", "authenticated"]],
        ],
        Contract::EnvoyV3 => &[
            &[&["gateway", "identity", "roles"]],
            &[&["source_principal"]],
            &[&["attributes", "source", "principal"]],
            &[&[envoy[0], envoy[1], envoy[2], "headers"]],
        ],
    };
    let rows = axis(domain, "rows", options.rows.as_deref(), rows)?;
    let columns = axis(domain, "columns", options.columns.as_deref(), columns)?;
    if let Some(same) = rows.iter().find(|dimension| columns.contains(dimension)) {
        let path = domain.dimensions().get(*same).map(crate::rego::domain::Dimension::name);
        return Err(MatrixError::Same { path: path.unwrap_or_default() });
    }
    Ok((rows, columns))
}

fn axis(
    domain: &Domain,
    name: &'static str,
    wanted: Option<&[String]>,
    usual: &[&[&[&str]]],
) -> Result<Axes, MatrixError> {
    let paths = || domain.dimensions().iter().map(crate::rego::domain::Dimension::name).collect();
    if let Some(wanted) = wanted {
        let exact = domain.dimensions().iter().position(|dimension| dimension.path == wanted);
        let below = || domain.dimensions().iter().position(|dimension| dimension.path.starts_with(wanted));
        let found = exact.or_else(below).or_else(|| domain.dimension(wanted));
        return found.map(|found| vec![found]).ok_or_else(|| {
            let shown = wanted.iter().fold("input".to_owned(), |mut shown, key| {
                crate::rego::tree::push_component(&mut shown, key);
                shown
            });
            MatrixError::NotRead { path: shown, paths: paths() }
        });
    }
    let tells = |path: &&[&str]| {
        let found = domain.dimensions().iter().position(|dimension| dimension.path.starts_with(&owned(path)));
        // One value is nothing to choose from.
        found.filter(|found| {
            let dimension = domain.dimensions().get(*found);
            dimension.is_some_and(|dimension| {
                dimension.choices.iter().filter(|choice| choice.kind() == Kind::Tested).count() > 0
            })
        })
    };
    let first = usual.iter().find_map(|paths| paths.iter().map(tells).collect::<Option<Axes>>());
    first.ok_or_else(|| MatrixError::NoAxis { axis: name, paths: paths() })
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|key| (*key).to_owned()).collect()
}

// === impl Axis ===

impl Axis {
    fn new(domain: &Domain, dimensions: Axes) -> Self {
        let mut steps: Vec<(Vec<u16>, String)> = vec![(Vec::new(), String::new())];
        for dimension in &dimensions {
            let choices = domain.dimensions().get(*dimension).map(|dimension| dimension.choices.as_slice());
            let shown = shown(choices.unwrap_or_default());
            let longer = steps.iter().flat_map(|(before, label)| {
                shown.iter().map(move |(choice, own)| {
                    let label = if label.is_empty() { own.clone() } else { format!("{label} {own}") };
                    (before.iter().copied().chain([*choice]).collect(), label)
                })
            });
            steps = longer.collect();
        }
        let named = dimensions.iter().filter_map(|dimension| domain.dimensions().get(*dimension));
        Self { paths: named.map(crate::rego::domain::Dimension::name).collect(), dimensions, steps }
    }

    /// Which step a request stands on.
    fn step(&self, point: &[u16]) -> Option<usize> {
        let own: Vec<u16> =
            self.dimensions.iter().filter_map(|dimension| point.get(*dimension).copied()).collect();
        self.steps.iter().position(|(choices, _)| *choices == own)
    }

    /// The steps that stand for no tested value.
    fn others(&self) -> Vec<usize> {
        let steps = self.steps.iter().enumerate();
        steps
            .filter(|(_, (_, label))| matches!(label.as_str(), NONE | OTHER))
            .map(|(index, _)| index)
            .collect()
    }

    fn put(&self, step: usize, point: &mut Point) {
        let Some((choices, _)) = self.steps.get(step) else { return };
        for (dimension, choice) in self.dimensions.iter().zip(choices) {
            if let Some(at) = point.get_mut(*dimension) {
                *at = *choice;
            }
        }
    }
}

/// The choices that make rows or columns: each tested value alone, one that is none of them, and absence.
fn shown(choices: &[Choice]) -> Vec<(u16, String)> {
    let mut tested = Vec::new();
    let mut rest = Vec::new();
    let mut has_other = false;
    for (index, choice) in choices.iter().enumerate() {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let parts = match choice.value() {
            None => {
                rest.push((index, NONE.to_owned()));
                continue;
            }
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(_)) => 2,
            Some(_) => 1,
        };
        let value = choice.value().cloned().unwrap_or(Value::Null);
        match choice.kind() {
            Kind::Tested if parts <= 1 || !matches!(value, Value::Array(_)) => {
                tested.push((index, label(&value)));
            }
            Kind::Other if parts == 1 && !has_other => {
                has_other = true;
                rest.push((index, OTHER.to_owned()));
            }
            Kind::Absent | Kind::Tested | Kind::Other | Kind::WrongType => {}
        }
    }
    tested.sort_by(|one, other| one.1.cmp(&other.1));
    rest.reverse();
    tested.into_iter().chain(rest).collect()
}

/// A text as it is, a list of one as that one, else JSON.
fn label(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Array(items) => match items.first() {
            Some(Value::String(text)) if items.len() == 1 => text.to_string(),
            Some(_) | None => value.to_string(),
        },
        Value::Object(_)
        | Value::Set(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Undefined => value.to_string(),
    }
}

struct Finder<'a> {
    domain: &'a Domain,
    base: &'a Value,
    contract: Contract,
    tallies: Vec<Vec<Tally>>,
    rows: &'a Axis,
    columns: &'a Axis,
    axes: &'a [usize],
}

impl Finder<'_> {
    fn allows(contract: Contract, answer: Option<&Answer>) -> bool {
        let Some(Answer::Value(value)) = answer else { return false };
        let decision = contract.parse(value, Phase::Request);
        matches!(Outcome::of(Some((value.clone(), decision))), Outcome::Allow { .. })
    }

    fn note(&mut self, point: &Point, answers: &[Answer]) -> usize {
        let is_allowed = Self::allows(self.contract, answers.first());
        if let (Some(row), Some(column)) = (self.rows.step(point), self.columns.step(point))
            && let Some(tally) = self.tallies.get_mut(row).and_then(|row| row.get_mut(column))
        {
            if !is_allowed {
                tally.denied.get_or_insert_with(|| point.clone());
            } else if tally.allowed.len() < ALLOWED_MAX {
                tally.allowed.push(point.clone());
            }
        }
        usize::from(is_allowed)
    }

    fn search(&mut self, askers: &mut Askers) -> Searched {
        let (domain, base) = (self.domain, self.base);
        let (rows, columns) = (self.rows, self.columns);
        let seeds = (0..rows.steps.len()).flat_map(|row| {
            (0..columns.steps.len()).map(move |column| {
                let mut seed = domain.origin();
                rows.put(row, &mut seed);
                columns.put(column, &mut seed);
                seed
            })
        });
        let mut search = Search::new(domain, base, askers, self.axes.to_vec()).with_seeds(seeds.collect());
        let mut searched = search.run(&mut |point, answers| self.note(point, answers));
        for row in 0..self.rows.steps.len() {
            for column in 0..self.columns.steps.len() {
                self.look_closer(&mut search, row, column, searched.is_complete);
            }
        }
        searched.requests = search.decided();
        searched
    }

    /// Makes more requests for a cell, unless all were made, and finds one that is granted to its column.
    fn look_closer(&mut self, search: &mut Search<'_>, row: usize, column: usize, is_complete: bool) {
        let mut seed = self.domain.origin();
        self.rows.put(row, &mut seed);
        self.columns.put(column, &mut seed);
        let others: Vec<usize> = self.columns.others();
        let is_tested = !others.is_empty() && !others.contains(&column);
        if let Some(tally) = self.tallies.get_mut(row).and_then(|row| row.get_mut(column))
            && !is_complete
        {
            // What is made for the cell is worth more than what was met by the way.
            tally.allowed.truncate(ALLOWED_MAX / 2);
            let known = std::mem::take(&mut tally.allowed);
            let columns = self.columns;
            let changes: Vec<_> =
                others.iter().map(|other| move |at: &mut Point| columns.put(*other, at)).collect();
            let changes: Vec<&dyn Fn(&mut Point)> =
                changes.iter().map(|change| -> &dyn Fn(&mut Point) { change }).collect();
            let parts = if is_tested { search.depending(&seed, &changes) } else { Vec::new() };
            for part in parts.iter().take(PARTS_MAX) {
                // Until the rest of a request is found that lets this part decide.
                for _ in 0..ROUNDS_MAX {
                    let mut allowed = 0;
                    search.around(part, AROUND_MAX / 10, &mut |point, answers| {
                        let class = self.note(point, answers);
                        allowed += class;
                        class
                    });
                    if allowed > 0 {
                        break;
                    }
                }
            }
            search.around(&seed, AROUND_MAX, &mut |point, answers| self.note(point, answers));
            if let Some(tally) = self.tallies.get_mut(row).and_then(|row| row.get_mut(column)) {
                tally.allowed.extend(known);
            }
        }
        if !is_tested {
            return;
        }
        let tally = self.tallies.get(row).and_then(|row| row.get(column));
        let allowed = tally.map(|tally| tally.allowed.clone()).unwrap_or_default();
        let contract = self.contract;
        let is_granted = |point: &Point| {
            others.iter().all(|other| {
                let mut point = point.clone();
                self.columns.put(*other, &mut point);
                !Self::allows(contract, search.answer(&point).first())
            })
        };
        let granted = allowed.into_iter().find(is_granted);
        if let Some(tally) = self.tallies.get_mut(row).and_then(|row| row.get_mut(column)) {
            tally.granted = granted;
        }
    }

    fn cells(&self, askers: &mut Askers, has_base: bool) -> Vec<Vec<Cell>> {
        let mut cell = |tally: &Tally| match &tally.denied {
            _ if tally.allowed.is_empty() => Cell::Never,
            None => Cell::Always,
            Some(_) if has_base => Cell::Always,
            Some(denied) => self.condition(askers, tally, denied),
        };
        self.tallies.iter().map(|row| row.iter().map(&mut cell).collect()).collect()
    }

    fn condition(&self, askers: &mut Askers, tally: &Tally, denied: &Point) -> Cell {
        let Some(entry) = self.domain.rules().len().checked_sub(1) else { return Cell::Never };
        let is_allowed = |askers: &mut Askers, point: &[u16]| {
            let input = self.domain.input(self.base, point);
            Self::allows(self.contract, askers.ask(entry, &input).first())
        };
        let others = self.columns.others();
        let is_denied_to_others = |askers: &mut Askers, point: &Point| {
            others.iter().all(|other| {
                let mut point = point.clone();
                self.columns.put(*other, &mut point);
                !is_allowed(askers, &point)
            })
        };
        let must_be_granted = tally.granted.is_some();
        let Some(mut smallest) = tally.granted.as_ref().or(tally.allowed.first()).cloned() else {
            return Cell::Never;
        };
        simplify(&mut smallest, self.axes, &mut |point| {
            is_allowed(askers, point) && (!must_be_granted || is_denied_to_others(askers, point))
        });
        let needs = self.fields(&smallest);
        let mut unless = Vec::new();
        if needs.is_empty() {
            let mut denied = denied.clone();
            simplify(&mut denied, self.axes, &mut |point| !is_allowed(askers, point));
            unless = self.fields(&denied);
        }
        let witness = self.domain.input(self.base, &smallest);
        Cell::Sometimes(Condition { is_granted: must_be_granted, needs, unless, witness })
    }

    /// The fields of a request besides row and column.
    fn fields(&self, point: &[u16]) -> Vec<(String, Value)> {
        let others = self.domain.dimensions().iter().enumerate();
        let others =
            others.filter(|(index, dimension)| !self.axes.contains(index) && dimension.choices.len() > 1);
        let set = others.filter_map(|(index, dimension)| {
            Some((dimension.name(), self.domain.choice(point, index)?.value()?.clone()))
        });
        set.collect()
    }
}
