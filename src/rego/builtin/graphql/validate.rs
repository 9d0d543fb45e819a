//! Whether a query may be asked of a schema (GraphQL, section 5). Stops at the first fault.

mod merge;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::Failure,
    ast::{
        Argument, ArgumentDefinition, Definition, Directive, Field, FieldDefinition, Fragment, Kind, Literal,
        Operation, QueryDocument, Selection, Type, VariableDefinition,
    },
    schema::Schema,
};

/// Most selections, arguments and comparisons of one validation: overlapping fields multiply.
const STEPS_MAX: usize = 200_000;

type Checked = Result<(), Failure>;

fn fault<T>(reason: String) -> Result<T, Failure> {
    Err(Failure::Error(reason))
}

/// Checks every operation and fragment of a document.
pub(super) fn validate(schema: &Schema, document: &QueryDocument) -> Checked {
    let mut fragments = BTreeMap::new();
    for fragment in &document.fragments {
        if fragments.insert(fragment.name.as_str(), fragment).is_some() {
            return fault(format!("there can be only one fragment named `{}`", fragment.name));
        }
    }
    let mut validator = Validator { schema, fragments, uses: BTreeMap::new(), steps: 0 };
    validator.check_cycles()?;
    validator.check_operations(document)
}

/// What one selection set uses directly.
#[derive(Default)]
struct Uses<'a> {
    variables: Vec<VariableUse<'a>>,
    spreads: BTreeSet<&'a str>,
}

/// A variable where a value is wanted.
#[derive(Clone)]
struct VariableUse<'a> {
    name: &'a str,
    wanted: Option<Type>,
    /// Whether a missing value would be replaced by a default.
    has_default: bool,
}

struct Validator<'a> {
    schema: &'a Schema,
    fragments: BTreeMap<&'a str, &'a Fragment>,
    uses: BTreeMap<&'a str, Uses<'a>>,
    steps: usize,
}

impl<'a> Validator<'a> {
    fn step(&mut self) -> Checked {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(Failure::Refused("query is too large to validate".to_owned()));
        }
        Ok(())
    }

    fn check_operations(&mut self, document: &'a QueryDocument) -> Checked {
        for fragment in self.fragments.clone().into_values() {
            let uses = self.fragment(fragment)?;
            self.uses.insert(&fragment.name, uses);
        }
        let mut names = BTreeSet::new();
        let mut used_fragments = BTreeSet::new();
        for operation in &document.operations {
            if operation.name.is_empty() && document.operations.len() > 1 {
                return fault("an anonymous operation must be the only one".to_owned());
            }
            if !names.insert(&operation.name) {
                return fault(format!("there can be only one operation named `{}`", operation.name));
            }
            used_fragments.extend(self.operation(operation)?);
        }
        match self.fragments.keys().find(|name| !used_fragments.contains(*name)) {
            Some(unused) => fault(format!("fragment `{unused}` is never used")),
            None => Ok(()),
        }
    }

    /// No fragment may contain itself (5.5.2.2), which everything else here relies on.
    fn check_cycles(&self) -> Checked {
        let mut closed: BTreeSet<&str> = BTreeSet::new();
        for start in self.fragments.keys() {
            let mut path: Vec<(&str, Vec<&str>)> = vec![(start, self.spreads_of(start))];
            while let Some((name, rest)) = path.last_mut() {
                let Some(next) = rest.pop() else {
                    closed.insert(name);
                    path.pop();
                    continue;
                };
                if path.iter().any(|(name, _)| *name == next) {
                    return fault(format!("cannot spread fragment `{next}` within itself"));
                }
                if !closed.contains(next) {
                    path.push((next, self.spreads_of(next)));
                }
            }
        }
        Ok(())
    }

    fn spreads_of(&self, fragment: &str) -> Vec<&'a str> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&'a Selection> =
            self.fragments.get(fragment).into_iter().flat_map(|fragment| &fragment.selections).collect();
        while let Some(selection) = open.pop() {
            match selection {
                Selection::Field(field) => open.extend(&field.selections),
                Selection::Inline(inline) => open.extend(&inline.selections),
                Selection::Spread(spread) => {
                    found.insert(spread.name.as_str());
                }
            }
        }
        found.into_iter().collect()
    }

    fn fragment(&mut self, fragment: &'a Fragment) -> Result<Uses<'a>, Failure> {
        let mut uses = Uses::default();
        let on = self.composite(&fragment.type_condition)?;
        self.directives(&fragment.directives, "FRAGMENT_DEFINITION", &mut uses)?;
        self.selections(&fragment.selections, on, &mut uses)?;
        self.check_mergeable(on, &fragment.selections)?;
        Ok(uses)
    }

    fn composite(&self, name: &str) -> Result<&'a Definition, Failure> {
        match self.schema.type_named(name) {
            Some(definition) if definition.kind.is_composite() => Ok(definition),
            Some(_) => fault(format!("a fragment cannot condition on the non-composite type `{name}`")),
            None => fault(format!("unknown type `{name}`")),
        }
    }

    /// Checks an operation; answers which fragments it uses.
    fn operation(&mut self, operation: &'a Operation) -> Result<BTreeSet<&'a str>, Failure> {
        let Some(root) = self.schema.root(&operation.kind) else {
            return fault(format!("schema does not support the operation `{}`", operation.kind));
        };
        let mut uses = Uses::default();
        self.directives(&operation.directives, &operation.kind.to_ascii_uppercase(), &mut uses)?;
        let variables = self.variables(&operation.variables)?;
        self.selections(&operation.selections, root, &mut uses)?;
        self.check_mergeable(root, &operation.selections)?;
        if operation.kind == "subscription" {
            self.check_single_root(operation)?;
        }
        let mut needed: BTreeSet<&str> = BTreeSet::new();
        let mut fragments = BTreeSet::new();
        let mut open: Vec<&Uses<'a>> = vec![&uses];
        while let Some(uses) = open.pop() {
            for variable in &uses.variables {
                let Some(definition) = variables.get(variable.name) else {
                    return fault(format!("variable `{}` is not defined", variable.name));
                };
                check_position(definition, variable)?;
                needed.insert(variable.name);
            }
            for name in &uses.spreads {
                if fragments.insert(*name) {
                    open.extend(self.uses.get(name));
                }
            }
        }
        match variables.keys().find(|name| !needed.contains(*name)) {
            Some(unused) => fault(format!("variable `{unused}` is never used")),
            None => Ok(fragments),
        }
    }

    fn variables(
        &mut self,
        definitions: &'a [VariableDefinition],
    ) -> Result<BTreeMap<&'a str, &'a VariableDefinition>, Failure> {
        let mut variables = BTreeMap::new();
        for definition in definitions {
            let name = definition.name.as_str();
            if variables.insert(name, definition).is_some() {
                return fault(format!("there can be only one variable named `{name}`"));
            }
            match self.schema.type_named(definition.kind.name()) {
                Some(kind) if kind.kind.is_input() => {}
                Some(_) => return fault(format!("variable `{name}` cannot be of a non-input type")),
                None => return fault(format!("unknown type `{}`", definition.kind.name())),
            }
            let mut none = Uses::default();
            if let Some(default) = &definition.default {
                self.value(default, Some(&definition.kind), false, &mut none)?;
            }
            self.directives(&definition.directives, "VARIABLE_DEFINITION", &mut none)?;
            if !none.variables.is_empty() {
                return fault(format!("variable `{name}` depends on another one"));
            }
        }
        Ok(variables)
    }

    /// A subscription asks for one field, and for none of introspection (5.2.3.1).
    fn check_single_root(&mut self, operation: &'a Operation) -> Checked {
        let mut names = BTreeSet::new();
        let mut open: Vec<&'a Selection> = operation.selections.iter().collect();
        while let Some(selection) = open.pop() {
            self.step()?;
            match selection {
                Selection::Field(field) if field.name.starts_with("__") => {
                    return fault("a subscription must not select an introspection field".to_owned());
                }
                Selection::Field(field) => {
                    names.insert(&field.alias);
                }
                Selection::Inline(inline) => open.extend(&inline.selections),
                Selection::Spread(spread) => {
                    let fragment = self.fragments.get(spread.name.as_str());
                    open.extend(fragment.into_iter().flat_map(|fragment| &fragment.selections));
                }
            }
        }
        if names.len() > 1 { fault("a subscription must select only one field".to_owned()) } else { Ok(()) }
    }

    fn selections(
        &mut self,
        selections: &'a [Selection],
        parent: &'a Definition,
        uses: &mut Uses<'a>,
    ) -> Checked {
        for selection in selections {
            self.step()?;
            match selection {
                Selection::Field(field) => self.field(field, parent, uses)?,
                Selection::Inline(inline) => {
                    let on = if inline.type_condition.is_empty() {
                        parent
                    } else {
                        self.composite(&inline.type_condition)?
                    };
                    self.check_spread(parent, &on.name)?;
                    self.directives(&inline.directives, "INLINE_FRAGMENT", uses)?;
                    self.selections(&inline.selections, on, uses)?;
                }
                Selection::Spread(spread) => {
                    let Some(fragment) = self.fragments.get(spread.name.as_str()) else {
                        return fault(format!("unknown fragment `{}`", spread.name));
                    };
                    self.check_spread(parent, &fragment.type_condition)?;
                    self.directives(&spread.directives, "FRAGMENT_SPREAD", uses)?;
                    uses.spreads.insert(&spread.name);
                }
            }
        }
        Ok(())
    }

    fn check_spread(&self, parent: &Definition, on: &str) -> Checked {
        if parent.name == on || self.schema.overlap(&parent.name, on) {
            return Ok(());
        }
        fault(format!("nothing of the type `{}` can ever be of the type `{on}`", parent.name))
    }

    fn field(&mut self, field: &'a Field, parent: &'a Definition, uses: &mut Uses<'a>) -> Checked {
        self.directives(&field.directives, "FIELD", uses)?;
        if field.name == "__typename" {
            return if field.selections.is_empty() && field.arguments.is_empty() {
                Ok(())
            } else {
                fault("`__typename` has neither arguments nor fields".to_owned())
            };
        }
        let Some(definition) = field_of(parent, &field.name) else {
            return fault(format!("cannot query field `{}` on type `{}`", field.name, parent.name));
        };
        self.arguments(&field.arguments, &definition.arguments, &field.name, uses)?;
        let Some(kind) = self.schema.type_named(definition.kind.name()) else {
            return fault(format!("unknown type `{}`", definition.kind.name()));
        };
        match (kind.kind.is_composite(), field.selections.is_empty()) {
            (true, true) => fault(format!("field `{}` must have a selection of fields", field.name)),
            (false, false) => fault(format!("field `{}` has no fields to select", field.name)),
            (true, false) => self.selections(&field.selections, kind, uses),
            (false, true) => Ok(()),
        }
    }

    fn arguments(
        &mut self,
        arguments: &'a [Argument],
        definitions: &'a [ArgumentDefinition],
        of: &str,
        uses: &mut Uses<'a>,
    ) -> Checked {
        let mut names = BTreeSet::new();
        for argument in arguments {
            self.step()?;
            if !names.insert(argument.name.as_str()) {
                return fault(format!("there can be only one argument named `{}`", argument.name));
            }
            let Some(definition) = definitions.iter().find(|known| known.name == argument.name) else {
                return fault(format!("unknown argument `{}` on `{of}`", argument.name));
            };
            self.value(&argument.value, Some(&definition.kind), definition.default.is_some(), uses)?;
        }
        let is_missing = |definition: &&ArgumentDefinition| {
            definition.kind.non_null
                && definition.default.is_none()
                && !names.contains(definition.name.as_str())
        };
        match definitions.iter().find(is_missing) {
            Some(missing) => fault(format!("argument `{}` of `{of}` is required", missing.name)),
            None => Ok(()),
        }
    }

    fn directives(&mut self, directives: &'a [Directive], location: &str, uses: &mut Uses<'a>) -> Checked {
        let mut names = BTreeSet::new();
        for directive in directives {
            let name = directive.name.as_str();
            let Some(definition) = self.schema.directive(name) else {
                return fault(format!("unknown directive `@{name}`"));
            };
            if !definition.locations.iter().any(|allowed| allowed == location) {
                return fault(format!("directive `@{name}` may not be used on {location}"));
            }
            if !names.insert(name) && !definition.is_repeatable {
                return fault(format!("directive `@{name}` can be used only once here"));
            }
            self.arguments(&directive.arguments, &definition.arguments, name, uses)?;
        }
        Ok(())
    }
}

/// A field of a type; a union has none of its own.
fn field_of<'a>(parent: &'a Definition, name: &str) -> Option<&'a FieldDefinition> {
    if parent.kind == Kind::Union { None } else { parent.field(name) }
}

/// Whether a variable may stand where it is used (5.8.5).
fn check_position(definition: &VariableDefinition, used: &VariableUse<'_>) -> Checked {
    let Some(wanted) = &used.wanted else { return Ok(()) };
    let mut wanted = wanted.clone();
    let is_null = |literal: &Literal| literal.kind == super::ast::LiteralKind::Null;
    let has_default = used.has_default || definition.default.as_ref().is_some_and(|value| !is_null(value));
    if wanted.non_null && !definition.kind.non_null && has_default {
        wanted.non_null = false;
    }
    if definition.kind.fits(&wanted) {
        return Ok(());
    }
    fault(format!("variable `{}` is used where another type is wanted", used.name))
}
