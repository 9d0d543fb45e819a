//! Values where a type is wanted (GraphQL, section 5.6).

use std::collections::BTreeSet;

use super::{
    super::{
        super::Failure,
        ast::{Definition, Kind, Literal, LiteralKind, Type},
    },
    Checked, Uses, Validator, VariableUse, fault,
};

impl<'a> Validator<'a> {
    /// Checks a value; without a type wanted, only the variables in it are noted.
    pub(super) fn value(
        &mut self,
        value: &'a Literal,
        wanted: Option<&Type>,
        has_default: bool,
        uses: &mut Uses<'a>,
    ) -> Checked {
        self.step()?;
        if value.kind == LiteralKind::Variable {
            uses.variables.push(VariableUse { name: &value.raw, wanted: wanted.cloned(), has_default });
            return Ok(());
        }
        let Some(wanted) = wanted else { return self.children(value, uses) };
        if value.kind == LiteralKind::Null {
            return if wanted.non_null { fault("null where a value is wanted".to_owned()) } else { Ok(()) };
        }
        if let Some(element) = &wanted.element {
            if value.kind != LiteralKind::List {
                // One value stands for a list of it.
                return self.value(value, Some(element), false, uses);
            }
            return value
                .children
                .iter()
                .try_for_each(|child| self.value(&child.value, Some(element), false, uses));
        }
        let Some(definition) = self.schema.type_named(&wanted.named) else {
            return fault(format!("unknown type `{}`", wanted.named));
        };
        match definition.kind {
            Kind::Scalar => self.scalar(value, definition, uses),
            Kind::Enum => {
                let is_known = definition.values.iter().any(|known| known.name == value.raw);
                if value.kind == LiteralKind::Enum && is_known { Ok(()) } else { wrong(value, definition) }
            }
            Kind::InputObject => self.input_object(value, definition, uses),
            Kind::Object | Kind::Interface | Kind::Union => wrong(value, definition),
        }
    }

    fn children(&mut self, value: &'a Literal, uses: &mut Uses<'a>) -> Checked {
        check_unique(value)?;
        value.children.iter().try_for_each(|child| self.value(&child.value, None, false, uses))
    }

    fn scalar(&mut self, value: &'a Literal, definition: &Definition, uses: &mut Uses<'a>) -> Checked {
        let is_text = matches!(value.kind, LiteralKind::String | LiteralKind::Block);
        let fits = match definition.name.as_str() {
            "Int" => value.kind == LiteralKind::Int,
            "Float" => matches!(value.kind, LiteralKind::Int | LiteralKind::Float),
            "String" => is_text,
            "Boolean" => value.kind == LiteralKind::Boolean,
            "ID" => is_text || value.kind == LiteralKind::Int,
            // Whoever defined the scalar knows what is one.
            _ => return self.children(value, uses),
        };
        if fits { Ok(()) } else { wrong(value, definition) }
    }

    fn input_object(
        &mut self,
        value: &'a Literal,
        definition: &'a Definition,
        uses: &mut Uses<'a>,
    ) -> Checked {
        if value.kind != LiteralKind::Object {
            return wrong(value, definition);
        }
        check_unique(value)?;
        for child in &value.children {
            let Some(field) = definition.field(&child.name) else {
                return fault(format!("`{}` has no field `{}`", definition.name, child.name));
            };
            self.value(&child.value, Some(&field.kind), field.default.is_some(), uses)?;
        }
        let missing = definition.fields.iter().find(|field| {
            field.kind.non_null
                && field.default.is_none()
                && !value.children.iter().any(|child| child.name == field.name)
        });
        match missing {
            Some(missing) => fault(format!("field `{}.{}` is required", definition.name, missing.name)),
            None => Ok(()),
        }
    }
}

fn check_unique(value: &Literal) -> Checked {
    let mut names = BTreeSet::new();
    let is_object = value.kind == LiteralKind::Object;
    match value.children.iter().find(|child| is_object && !names.insert(&child.name)) {
        Some(again) => fault(format!("there can be only one input field named `{}`", again.name)),
        None => Ok(()),
    }
}

fn wrong(value: &Literal, definition: &Definition) -> Result<(), Failure> {
    fault(format!("`{}` is no value of the type `{}`", value.raw, definition.name))
}
