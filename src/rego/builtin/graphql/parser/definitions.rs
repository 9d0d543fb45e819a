//! The type-system half of the parser (GraphQL, section 3).

use super::{
    super::{
        super::Failure,
        ast::{
            ArgumentDefinition, Definition, DirectiveDefinition, EnumValue, FieldDefinition, Kind,
            OperationType, SchemaDefinition, SchemaDocument,
        },
        lexer::Token,
    },
    Parsed, Parser,
};

/// Where a directive may be allowed.
const LOCATIONS: &[&str] = &[
    "QUERY",
    "MUTATION",
    "SUBSCRIPTION",
    "FIELD",
    "FRAGMENT_DEFINITION",
    "FRAGMENT_SPREAD",
    "INLINE_FRAGMENT",
    "VARIABLE_DEFINITION",
    "SCHEMA",
    "SCALAR",
    "OBJECT",
    "FIELD_DEFINITION",
    "ARGUMENT_DEFINITION",
    "INTERFACE",
    "UNION",
    "ENUM",
    "ENUM_VALUE",
    "INPUT_OBJECT",
    "INPUT_FIELD_DEFINITION",
];

impl Parser {
    pub(in super::super) fn schema(text: &str) -> Parsed<SchemaDocument> {
        let mut parser = Self::new(text)?;
        let mut document = SchemaDocument::default();
        while *parser.peek() != Token::End {
            let is_described = matches!(parser.peek(), Token::Text(_) | Token::Block(_));
            let description = parser.description();
            if parser.is_name("extend") {
                if is_described {
                    return Err(parser.unexpected("an extension has no description"));
                }
                parser.next();
                parser.extension(&mut document)?;
            } else if parser.skip_name("schema") {
                document.schema.push(parser.schema_definition(description)?);
            } else if parser.skip_name("directive") {
                document.directives.push(parser.directive_definition(description)?);
            } else {
                let kind = parser.kind()?;
                document.definitions.push(parser.definition(kind, description)?);
            }
        }
        Ok(document)
    }

    fn description(&mut self) -> String {
        match self.peek() {
            Token::Text(text) | Token::Block(text) => {
                let text = text.clone();
                self.next();
                text
            }
            Token::Punctuator(_) | Token::Name(_) | Token::Int(_) | Token::Float(_) | Token::End => {
                String::new()
            }
        }
    }

    fn kind(&mut self) -> Parsed<Kind> {
        let kind = match self.peek() {
            Token::Name(name) => match name.as_str() {
                "scalar" => Kind::Scalar,
                "type" => Kind::Object,
                "interface" => Kind::Interface,
                "union" => Kind::Union,
                "enum" => Kind::Enum,
                "input" => Kind::InputObject,
                _ => return Err(self.unexpected("expected a definition")),
            },
            _ => return Err(self.unexpected("expected a definition")),
        };
        self.next();
        Ok(kind)
    }

    fn schema_definition(&mut self, description: String) -> Parsed<SchemaDefinition> {
        let directives = self.directives(true)?;
        let operations = self.list(['{', '}'], false, |parser| {
            let kind = parser.operation_kind()?;
            parser.expect(':')?;
            Ok(OperationType { kind, named: parser.name()? })
        })?;
        Ok(SchemaDefinition { description, directives, operations })
    }

    fn definition(&mut self, kind: Kind, description: String) -> Parsed<Definition> {
        let name = self.name()?;
        let has_interfaces = matches!(kind, Kind::Object | Kind::Interface);
        let interfaces = if has_interfaces { self.interfaces()? } else { Vec::new() };
        let directives = self.directives(true)?;
        let mut definition =
            Definition { kind, description, name, directives, interfaces, ..Definition::default() };
        match kind {
            Kind::Scalar => {}
            Kind::Object | Kind::Interface => {
                definition.fields = self.list(['{', '}'], false, Self::field)?;
            }
            Kind::InputObject => definition.fields = self.list(['{', '}'], false, Self::input_field)?,
            Kind::Union => definition.members = self.members()?,
            Kind::Enum => {
                definition.values = self.list(['{', '}'], false, |parser| {
                    Ok(EnumValue {
                        description: parser.description(),
                        name: parser.name()?,
                        directives: parser.directives(true)?,
                    })
                })?;
            }
        }
        Ok(definition)
    }

    fn extension(&mut self, document: &mut SchemaDocument) -> Parsed<()> {
        let nothing = |parser: &Self| -> Failure { parser.unexpected("an extension extends something") };
        if self.skip_name("schema") {
            let extension = self.schema_definition(String::new())?;
            if extension.directives.is_empty() && extension.operations.is_empty() {
                return Err(nothing(self));
            }
            document.schema_extensions.push(extension);
            return Ok(());
        }
        let kind = self.kind()?;
        let extension = self.definition(kind, String::new())?;
        let Definition { directives, interfaces, fields, members, values, .. } = &extension;
        let is_empty = directives.is_empty()
            && interfaces.is_empty()
            && fields.is_empty()
            && members.is_empty()
            && values.is_empty();
        if is_empty {
            return Err(nothing(self));
        }
        document.extensions.push(extension);
        Ok(())
    }

    fn interfaces(&mut self) -> Parsed<Vec<String>> {
        let mut interfaces = Vec::new();
        if self.skip_name("implements") {
            self.skip('&');
            interfaces.push(self.name()?);
            while self.skip('&') {
                interfaces.push(self.name()?);
            }
        }
        Ok(interfaces)
    }

    fn members(&mut self) -> Parsed<Vec<String>> {
        let mut members = Vec::new();
        if self.skip('=') {
            self.skip('|');
            members.push(self.name()?);
            while self.skip('|') {
                members.push(self.name()?);
            }
        }
        Ok(members)
    }

    fn field(&mut self) -> Parsed<FieldDefinition> {
        let description = self.description();
        let name = self.name()?;
        let arguments = self.argument_definitions()?;
        self.expect(':')?;
        let kind = self.type_reference()?;
        Ok(FieldDefinition {
            description,
            name,
            arguments,
            default: None,
            kind,
            directives: self.directives(true)?,
        })
    }

    fn input_field(&mut self) -> Parsed<FieldDefinition> {
        let ArgumentDefinition { description, name, default, kind, directives } =
            self.argument_definition()?;
        Ok(FieldDefinition { description, name, arguments: Vec::new(), default, kind, directives })
    }

    fn argument_definitions(&mut self) -> Parsed<Vec<ArgumentDefinition>> {
        self.list(['(', ')'], false, Self::argument_definition)
    }

    fn argument_definition(&mut self) -> Parsed<ArgumentDefinition> {
        let description = self.description();
        let name = self.name()?;
        self.expect(':')?;
        let kind = self.type_reference()?;
        let default = if self.skip('=') { Some(self.literal(true)?) } else { None };
        Ok(ArgumentDefinition { description, name, default, kind, directives: self.directives(true)? })
    }

    fn directive_definition(&mut self, description: String) -> Parsed<DirectiveDefinition> {
        self.expect('@')?;
        let name = self.name()?;
        let arguments = self.argument_definitions()?;
        let is_repeatable = self.skip_name("repeatable");
        self.expect_name("on")?;
        self.skip('|');
        let mut locations = vec![self.location()?];
        while self.skip('|') {
            locations.push(self.location()?);
        }
        Ok(DirectiveDefinition { description, name, arguments, locations, is_repeatable })
    }

    fn location(&mut self) -> Parsed<String> {
        match self.peek() {
            Token::Name(name) if LOCATIONS.contains(&name.as_str()) => self.name(),
            _ => Err(self.unexpected("expected a directive location")),
        }
    }
}
