//! Whether the fields of one answer can be merged (GraphQL, section 5.3.2).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        super::Failure,
        ast::{Argument, Definition, Field, Kind, Selection, Type},
    },
    Checked, Validator, fault, field_of,
};

/// A field as it is asked of a type; the type of its value where that is known.
#[derive(Clone, Copy)]
struct Asked<'a> {
    parent: &'a Definition,
    field: &'a Field,
    kind: Option<&'a Type>,
}

type Answer<'a> = BTreeMap<&'a str, Vec<Asked<'a>>>;

impl<'a> Validator<'a> {
    pub(super) fn check_mergeable(&mut self, parent: &'a Definition, selections: &'a [Selection]) -> Checked {
        let mut answer = Answer::new();
        self.gather(parent, selections, &mut answer, &mut BTreeSet::new())?;
        self.check_answer(&answer)
    }

    fn check_answer(&mut self, answer: &Answer<'a>) -> Checked {
        for (name, asked) in answer {
            for (index, first) in asked.iter().enumerate() {
                for second in asked.iter().skip(index + 1) {
                    self.step()?;
                    check_pair(name, first, second)?;
                }
            }
            // All of them make one value: their fields have to fit together, too.
            let mut below = Answer::new();
            let mut spread = BTreeSet::new();
            for one in asked {
                if let Some(parent) = one.kind.and_then(|kind| self.schema.type_named(kind.name())) {
                    self.gather(parent, &one.field.selections, &mut below, &mut spread)?;
                }
            }
            self.check_answer(&below)?;
        }
        Ok(())
    }

    fn gather(
        &mut self,
        parent: &'a Definition,
        selections: &'a [Selection],
        answer: &mut Answer<'a>,
        spread: &mut BTreeSet<&'a str>,
    ) -> Result<(), Failure> {
        for selection in selections {
            self.step()?;
            match selection {
                Selection::Field(field) => {
                    let kind = field_of(parent, &field.name).map(|definition| &definition.kind);
                    answer.entry(&field.alias).or_default().push(Asked { parent, field, kind });
                }
                Selection::Inline(inline) => {
                    let on = self.schema.type_named(&inline.type_condition).unwrap_or(parent);
                    self.gather(on, &inline.selections, answer, spread)?;
                }
                Selection::Spread(named) => {
                    let fragment = self.fragments.get(named.name.as_str()).copied();
                    let Some(fragment) = fragment.filter(|_| spread.insert(&named.name)) else { continue };
                    let on = self.schema.type_named(&fragment.type_condition).unwrap_or(parent);
                    self.gather(on, &fragment.selections, answer, spread)?;
                }
            }
        }
        Ok(())
    }
}

fn check_pair(name: &str, first: &Asked<'_>, second: &Asked<'_>) -> Checked {
    let conflict = |reason: &str| fault(format!("fields `{name}` conflict because {reason}"));
    // Two different object types never give one answer.
    let are_exclusive = first.parent.name != second.parent.name
        && first.parent.kind == Kind::Object
        && second.parent.kind == Kind::Object;
    if !are_exclusive {
        if first.field.name != second.field.name {
            return conflict("they are different fields");
        }
        if !same_arguments(&first.field.arguments, &second.field.arguments) {
            return conflict("they have differing arguments");
        }
    }
    match (first.kind, second.kind) {
        (Some(first), Some(second)) if !same_shape(first, second) => conflict("they return differing types"),
        (Some(_) | None, _) => Ok(()),
    }
}

fn same_arguments(left: &[Argument], right: &[Argument]) -> bool {
    left.len() == right.len() && left.iter().all(|argument| right.contains(argument))
}

/// Whether values of both types look the same; fields of composite ones are compared later.
fn same_shape(left: &Type, right: &Type) -> bool {
    if left.non_null != right.non_null {
        return false;
    }
    match (&left.element, &right.element) {
        (Some(left), Some(right)) => same_shape(left, right),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
