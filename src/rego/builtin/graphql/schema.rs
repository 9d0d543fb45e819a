//! A schema document to the types queries are checked against (GraphQL, section 3).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::LazyLock,
};

use super::{
    super::Failure,
    ast::{
        ArgumentDefinition, Definition, Directive, DirectiveDefinition, FieldDefinition, Kind,
        SchemaDocument, Type,
    },
    parser::Parser,
};

/// Most fields of types and interfaces compared in one schema.
const COMPARISONS_MAX: usize = 1_000_000;

static PRELUDE: LazyLock<SchemaDocument> = LazyLock::new(|| {
    let mut document = Parser::schema(include_str!("prelude.graphql")).unwrap_or_default();
    document.definitions.iter_mut().for_each(|definition| definition.is_builtin = true);
    document
});

/// Directives a schema may define although they exist: the first definition counts.
const BUILTIN_DIRECTIVES: &[&str] = &["include", "skip", "deprecated", "specifiedBy", "defer", "oneOf"];

/// A valid schema.
#[derive(Debug, Default)]
pub(super) struct Schema {
    types: BTreeMap<String, Definition>,
    directives: BTreeMap<String, DirectiveDefinition>,
    /// The object types a value of a composite type may be of.
    possible: BTreeMap<String, BTreeSet<String>>,
    /// The root type's name by operation.
    roots: BTreeMap<String, String>,
}

type Checked = Result<(), Failure>;

fn fault<T>(reason: String) -> Result<T, Failure> {
    Err(Failure::Error(reason))
}

impl Schema {
    /// Checks a document and everything it defines.
    pub(super) fn new(document: SchemaDocument) -> Result<Self, Failure> {
        let mut schema = Self::default();
        let prelude = PRELUDE.clone();
        schema.add_types(prelude.definitions.into_iter().chain(document.definitions), document.extensions)?;
        for directive in prelude.directives.into_iter().chain(document.directives) {
            match schema.directives.entry(directive.name.clone()) {
                Entry::Vacant(slot) => drop(slot.insert(directive)),
                Entry::Occupied(known) if BUILTIN_DIRECTIVES.contains(&known.key().as_str()) => {}
                Entry::Occupied(known) => {
                    return fault(format!("cannot redeclare directive {}", known.key()));
                }
            }
        }
        schema.add_possible();
        if document.schema.len() > 1 {
            return fault("cannot have multiple schema entry points".to_owned());
        }
        let has_definition = !document.schema.is_empty();
        for operation in
            document.schema.iter().chain(&document.schema_extensions).flat_map(|part| &part.operations)
        {
            if !schema.types.contains_key(&operation.named) {
                return fault(format!("schema root {} refers to no type", operation.kind));
            }
            schema.roots.insert(operation.kind.clone(), operation.named.clone());
        }
        schema.check()?;
        for part in document.schema.iter().chain(&document.schema_extensions) {
            schema.check_directives(&part.directives, "SCHEMA", None)?;
        }
        for (kind, named) in [("query", "Query"), ("mutation", "Mutation"), ("subscription", "Subscription")]
        {
            if !has_definition && schema.types.contains_key(named) {
                schema.roots.entry(kind.to_owned()).or_insert_with(|| named.to_owned());
            }
        }
        schema.add_introspection();
        Ok(schema)
    }

    pub(super) fn type_named(&self, name: &str) -> Option<&Definition> {
        self.types.get(name)
    }

    pub(super) fn directive(&self, name: &str) -> Option<&DirectiveDefinition> {
        self.directives.get(name)
    }

    /// The type an operation starts from.
    pub(super) fn root(&self, operation: &str) -> Option<&Definition> {
        self.roots.get(operation).and_then(|name| self.types.get(name))
    }

    /// Whether a value could be of both types.
    pub(super) fn overlap(&self, left: &str, right: &str) -> bool {
        let possible = |name| self.possible.get(name);
        match (possible(left), possible(right)) {
            (Some(left), Some(right)) => !left.is_disjoint(right),
            (None, _) | (_, None) => false,
        }
    }

    fn add_types(
        &mut self,
        definitions: impl Iterator<Item = Definition>,
        extensions: Vec<Definition>,
    ) -> Checked {
        for definition in definitions {
            let name = definition.name.clone();
            if self.types.insert(name.clone(), definition).is_some() {
                return fault(format!("cannot redeclare type {name}"));
            }
        }
        for extension in extensions {
            // Extending a type defined elsewhere is how schemas are composed.
            let base = self.types.entry(extension.name.clone()).or_insert_with(|| Definition {
                kind: extension.kind,
                name: extension.name.clone(),
                ..Definition::default()
            });
            if base.kind != extension.kind {
                return fault(format!("cannot extend type {}: the base is of another kind", extension.name));
            }
            base.directives.extend(extension.directives);
            base.interfaces.extend(extension.interfaces);
            base.fields.extend(extension.fields);
            base.members.extend(extension.members);
            base.values.extend(extension.values);
        }
        Ok(())
    }

    fn add_possible(&mut self) {
        for definition in self.types.values() {
            let mut add = |of: &str, name: &str| {
                self.possible.entry(of.to_owned()).or_default().insert(name.to_owned());
            };
            match definition.kind {
                Kind::Union => definition.members.iter().for_each(|member| add(&definition.name, member)),
                Kind::Object => {
                    add(&definition.name, &definition.name);
                    definition.interfaces.iter().for_each(|interface| add(interface, &definition.name));
                }
                Kind::Interface => {
                    definition.interfaces.iter().for_each(|interface| add(interface, &definition.name));
                }
                Kind::Scalar | Kind::Enum | Kind::InputObject => {}
            }
        }
    }

    fn add_introspection(&mut self) {
        let Some(query) = self.roots.get("query").and_then(|name| self.types.get_mut(name)) else { return };
        let non_null = |named: &str| Type { non_null: true, ..Type::of(named) };
        let name = ArgumentDefinition {
            name: "name".to_owned(),
            kind: non_null("String"),
            ..ArgumentDefinition::default()
        };
        query.fields.push(FieldDefinition {
            name: "__schema".to_owned(),
            kind: non_null("__Schema"),
            ..FieldDefinition::default()
        });
        query.fields.push(FieldDefinition {
            name: "__type".to_owned(),
            kind: Type::of("__Type"),
            arguments: vec![name],
            ..FieldDefinition::default()
        });
    }

    fn check(&self) -> Checked {
        let comparisons: usize = self
            .types
            .values()
            .map(|definition| definition.fields.len() * (1 + definition.interfaces.len()))
            .sum();
        if comparisons > COMPARISONS_MAX {
            return Err(Failure::Refused("schema is too large to check".to_owned()));
        }
        self.types.values().try_for_each(|definition| self.check_definition(definition))?;
        self.directives.values().try_for_each(|directive| {
            check_name(&directive.name)?;
            self.check_arguments(&directive.arguments, Some(&directive.name))
        })
    }

    fn check_definition(&self, definition: &Definition) -> Checked {
        let Definition { kind, name, .. } = definition;
        let mut names = BTreeSet::new();
        for field in &definition.fields {
            check_name(&field.name)?;
            self.check_type(&field.kind)?;
            self.check_arguments(&field.arguments, None)?;
            let location =
                if *kind == Kind::InputObject { "INPUT_FIELD_DEFINITION" } else { "FIELD_DEFINITION" };
            self.check_directives(&field.directives, location, None)?;
            let is_input = self.types.get(field.kind.name()).is_some_and(|kind| kind.kind.is_input());
            let is_output = self.types.get(field.kind.name()).is_some_and(|of| of.kind != Kind::InputObject);
            if !(if *kind == Kind::InputObject { is_input } else { is_output }) {
                return fault(format!("field {name}.{} cannot be of its type", field.name));
            }
            if !names.insert(&field.name) {
                return fault(format!("field {name}.{} can only be defined once", field.name));
            }
        }
        for member in &definition.members {
            match self.types.get(member) {
                None => return fault(format!("undefined type {member}")),
                Some(member) if member.kind != Kind::Object => {
                    return fault(format!("{name} can only have objects as members"));
                }
                Some(_) => {}
            }
        }
        for interface in &definition.interfaces {
            self.check_implements(definition, interface)?;
        }
        let needs_fields = matches!(kind, Kind::Object | Kind::Interface | Kind::InputObject);
        if needs_fields && definition.fields.is_empty() {
            return fault(format!("{name} must define one or more fields"));
        }
        if *kind == Kind::Enum {
            if definition.values.is_empty() {
                return fault(format!("{name} must define one or more unique enum values"));
            }
            let reserved = |value: &str| matches!(value, "true" | "false" | "null");
            if definition.values.iter().any(|value| reserved(&value.name)) {
                return fault(format!("{name} has a value that is none of an enum"));
            }
        }
        if !definition.is_builtin {
            check_name(name)?;
        }
        self.check_directives(&definition.directives, kind.location(), None)
    }

    fn check_type(&self, kind: &Type) -> Checked {
        if self.types.contains_key(kind.name()) {
            return Ok(());
        }
        fault(format!("undefined type {}", kind.name()))
    }

    fn check_arguments(&self, arguments: &[ArgumentDefinition], directive: Option<&str>) -> Checked {
        for argument in arguments {
            check_name(&argument.name)?;
            self.check_type(&argument.kind)?;
            if !self.types.get(argument.kind.name()).is_some_and(|kind| kind.kind.is_input()) {
                return fault(format!("argument {} is not of an input type", argument.name));
            }
            self.check_directives(&argument.directives, "ARGUMENT_DEFINITION", directive)?;
        }
        Ok(())
    }

    fn check_directives(&self, directives: &[Directive], location: &str, inside: Option<&str>) -> Checked {
        for directive in directives {
            let name = &directive.name;
            check_name(name)?;
            if inside == Some(name) {
                return fault(format!("directive {name} cannot refer to itself"));
            }
            let Some(definition) = self.directives.get(name) else {
                return fault(format!("undefined directive {name}"));
            };
            if !definition.locations.iter().any(|allowed| allowed == location) {
                return fault(format!("directive {name} is not applicable on {location}"));
            }
        }
        Ok(())
    }

    fn check_implements(&self, definition: &Definition, name: &str) -> Checked {
        let Some(interface) = self.types.get(name) else { return fault(format!("undefined type {name}")) };
        if interface.kind != Kind::Interface {
            return fault(format!("{name} is no interface"));
        }
        let of = &definition.name;
        for required in &interface.fields {
            let Some(field) = definition.field(&required.name) else {
                return fault(format!("for {of} to implement {name} it must have a field {}", required.name));
            };
            if !self.is_covariant(&required.kind, &field.kind) {
                return fault(format!("{of}.{} is not of the type {name} wants", field.name));
            }
            for argument in &required.arguments {
                let given = field.arguments.iter().find(|given| given.name == argument.name);
                if !given.is_some_and(|given| argument.kind.fits(&given.kind)) {
                    return fault(format!("{of}.{} lacks an argument {name} wants", field.name));
                }
            }
            let is_extra = |argument: &&ArgumentDefinition| {
                !required.arguments.iter().any(|required| required.name == argument.name)
            };
            let mut extra = field.arguments.iter().filter(is_extra);
            if extra.any(|argument| argument.kind.non_null && argument.default.is_none()) {
                return fault(format!("{of}.{} requires an argument {name} does not know", field.name));
            }
        }
        for ancestor in &interface.interfaces {
            if !definition.interfaces.contains(ancestor) {
                return fault(format!("{of} must implement {ancestor} because {name} does"));
            }
        }
        Ok(())
    }

    fn is_covariant(&self, required: &Type, actual: &Type) -> bool {
        if required.non_null && !actual.non_null {
            return false;
        }
        match (&required.element, &actual.element) {
            (Some(required), Some(actual)) => self.is_covariant(required, actual),
            (Some(_), None) => false,
            (None, _) => {
                let possible = self.possible.get(&required.named);
                required.named == actual.named
                    || possible.is_some_and(|possible| possible.contains(&actual.named))
            }
        }
    }
}

fn check_name(name: &str) -> Checked {
    if name.starts_with("__") {
        return fault(format!("name `{name}` must not begin with `__`, which introspection has for itself"));
    }
    Ok(())
}
