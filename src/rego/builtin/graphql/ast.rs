//! The syntax trees. Their JSON form is what policies see and give back, so it is OPA's.

use serde::{Deserialize, Serialize};

/// Deepest nesting of selections, values or types in a text.
pub(super) const DEPTH_MAX: usize = 64;
/// Deepest nesting of a tree given as a value: each level of the text is two or three of it.
pub(super) const VALUE_DEPTH_MAX: usize = 4 * DEPTH_MAX;

/// Operations and fragments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct QueryDocument {
    pub(super) operations: Vec<Operation>,
    pub(super) fragments: Vec<Fragment>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Operation {
    /// `query`, `mutation` or `subscription`.
    #[serde(rename = "Operation")]
    pub(super) kind: String,
    pub(super) name: String,
    #[serde(rename = "VariableDefinitions")]
    pub(super) variables: Vec<VariableDefinition>,
    pub(super) directives: Vec<Directive>,
    #[serde(rename = "SelectionSet")]
    pub(super) selections: Vec<Selection>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Fragment {
    pub(super) name: String,
    #[serde(rename = "VariableDefinition")]
    pub(super) variables: Vec<VariableDefinition>,
    pub(super) type_condition: String,
    pub(super) directives: Vec<Directive>,
    #[serde(rename = "SelectionSet")]
    pub(super) selections: Vec<Selection>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct VariableDefinition {
    #[serde(rename = "Variable")]
    pub(super) name: String,
    #[serde(rename = "Type")]
    pub(super) kind: Type,
    #[serde(rename = "DefaultValue")]
    pub(super) default: Option<Literal>,
    pub(super) directives: Vec<Directive>,
    /// Always false: OPA gives the tree out before it looks.
    pub(super) used: bool,
}

/// One entry of a selection set. Which one a value is can be told by its required fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Selection {
    Field(Field),
    Inline(InlineFragment),
    Spread(FragmentSpread),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Field {
    pub(super) alias: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) arguments: Vec<Argument>,
    #[serde(default)]
    pub(super) directives: Vec<Directive>,
    #[serde(default, rename = "SelectionSet")]
    pub(super) selections: Vec<Selection>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InlineFragment {
    pub(super) type_condition: String,
    #[serde(default)]
    pub(super) directives: Vec<Directive>,
    #[serde(default, rename = "SelectionSet")]
    pub(super) selections: Vec<Selection>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FragmentSpread {
    pub(super) name: String,
    #[serde(default)]
    pub(super) directives: Vec<Directive>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Argument {
    pub(super) name: String,
    pub(super) value: Literal,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Directive {
    pub(super) name: String,
    pub(super) arguments: Vec<Argument>,
    /// Always empty: OPA gives the tree out before it is validated.
    pub(super) location: String,
}

/// A value as written, or a variable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Literal {
    pub(super) kind: LiteralKind,
    pub(super) raw: String,
    pub(super) children: Vec<Child>,
    /// Always false: OPA gives the tree out before it is validated.
    pub(super) expected_type_has_default: bool,
}

/// The kinds by the numbers they have in the tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub(super) enum LiteralKind {
    #[default]
    Variable,
    Int,
    Float,
    String,
    Block,
    Boolean,
    Null,
    Enum,
    List,
    Object,
}

impl LiteralKind {
    const ALL: [Self; 10] = [
        Self::Variable,
        Self::Int,
        Self::Float,
        Self::String,
        Self::Block,
        Self::Boolean,
        Self::Null,
        Self::Enum,
        Self::List,
        Self::Object,
    ];
}

impl From<LiteralKind> for u8 {
    fn from(kind: LiteralKind) -> Self {
        kind as Self
    }
}

impl TryFrom<u8> for LiteralKind {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Self::ALL
            .get(usize::from(number))
            .copied()
            .ok_or_else(|| format!("no kind of value has the number {number}"))
    }
}

/// An element of a list, without a name, or a field of an object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Child {
    pub(super) name: String,
    pub(super) value: Literal,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Type {
    /// Empty for a list.
    #[serde(rename = "NamedType")]
    pub(super) named: String,
    #[serde(rename = "Elem")]
    pub(super) element: Option<Box<Type>>,
    pub(super) non_null: bool,
}

impl Type {
    pub(super) fn of(named: &str) -> Self {
        Self { named: named.to_owned(), element: None, non_null: false }
    }

    /// The name of the innermost type.
    pub(super) fn name(&self) -> &str {
        self.element.as_ref().map_or(&self.named, |element| element.name())
    }

    /// Whether a value of this type may stand where `other` is wanted.
    pub(super) fn fits(&self, other: &Self) -> bool {
        if other.non_null && !self.non_null {
            return false;
        }
        match (&self.element, &other.element) {
            (Some(element), Some(wanted)) => element.fits(wanted),
            (None, None) => self.named == other.named,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// Type definitions, extensions, directives and the schema itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct SchemaDocument {
    pub(super) schema: Vec<SchemaDefinition>,
    #[serde(rename = "SchemaExtension")]
    pub(super) schema_extensions: Vec<SchemaDefinition>,
    pub(super) directives: Vec<DirectiveDefinition>,
    pub(super) definitions: Vec<Definition>,
    pub(super) extensions: Vec<Definition>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct SchemaDefinition {
    pub(super) description: String,
    pub(super) directives: Vec<Directive>,
    #[serde(rename = "OperationTypes")]
    pub(super) operations: Vec<OperationType>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct OperationType {
    #[serde(rename = "Operation")]
    pub(super) kind: String,
    #[serde(rename = "Type")]
    pub(super) named: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Kind {
    #[default]
    Scalar,
    Object,
    Interface,
    Union,
    Enum,
    InputObject,
}

impl Kind {
    pub(super) fn is_composite(self) -> bool {
        matches!(self, Self::Object | Self::Interface | Self::Union)
    }

    pub(super) fn is_input(self) -> bool {
        matches!(self, Self::Scalar | Self::Enum | Self::InputObject)
    }

    /// Where a directive on such a type stands.
    pub(super) fn location(self) -> &'static str {
        match self {
            Self::Scalar => "SCALAR",
            Self::Object => "OBJECT",
            Self::Interface => "INTERFACE",
            Self::Union => "UNION",
            Self::Enum => "ENUM",
            Self::InputObject => "INPUT_OBJECT",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Definition {
    pub(super) kind: Kind,
    pub(super) description: String,
    pub(super) name: String,
    pub(super) directives: Vec<Directive>,
    pub(super) interfaces: Vec<String>,
    pub(super) fields: Vec<FieldDefinition>,
    /// The members of a union.
    #[serde(rename = "Types")]
    pub(super) members: Vec<String>,
    #[serde(rename = "EnumValues")]
    pub(super) values: Vec<EnumValue>,
    #[serde(rename = "BuiltIn")]
    pub(super) is_builtin: bool,
}

impl Definition {
    pub(super) fn field(&self, name: &str) -> Option<&FieldDefinition> {
        self.fields.iter().find(|field| field.name == name)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct FieldDefinition {
    pub(super) description: String,
    pub(super) name: String,
    pub(super) arguments: Vec<ArgumentDefinition>,
    /// Of input objects only.
    #[serde(rename = "DefaultValue")]
    pub(super) default: Option<Literal>,
    #[serde(rename = "Type")]
    pub(super) kind: Type,
    pub(super) directives: Vec<Directive>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ArgumentDefinition {
    pub(super) description: String,
    pub(super) name: String,
    #[serde(rename = "DefaultValue")]
    pub(super) default: Option<Literal>,
    #[serde(rename = "Type")]
    pub(super) kind: Type,
    pub(super) directives: Vec<Directive>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EnumValue {
    pub(super) description: String,
    pub(super) name: String,
    pub(super) directives: Vec<Directive>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DirectiveDefinition {
    pub(super) description: String,
    pub(super) name: String,
    pub(super) arguments: Vec<ArgumentDefinition>,
    pub(super) locations: Vec<String>,
    pub(super) is_repeatable: bool,
}
