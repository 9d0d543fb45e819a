//! `strings.render_template`: Go's `text/template` over an object of values.
//!
//! Named templates (`define`, `template`, `block`) and methods do not exist here. Numbers from the
//! values are texts to a template, as they are in OPA.

mod function;
mod parse;

use regorus::Value;

use self::parse::{Branch, Command, Node, Operand, Pipeline, Target};
use super::{Entry, Failure, argument, encoding::to_json};

pub(super) const TABLE: &[Entry] = &[("strings.render_template", 2, render)];

/// Longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// Longest text made, in bytes.
const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Most actions run for one text.
const STEPS_MAX: usize = 100_000;
/// What Go prints for nothing, and what OPA makes of it.
const NO_VALUE: &str = "<no value>";
const UNDEFINED: &str = "<undefined>";

fn fault<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Error(format!("template: {}", reason.into())))
}

fn render(arguments: &[Value]) -> Result<Value, Failure> {
    let template = argument::string(arguments, 0)?;
    let values = argument::object(arguments, 1)?;
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(Failure::Refused(format!("template longer than {} KiB", TEMPLATE_BYTES_MAX >> 10)));
    }
    let nodes = parse::parse(template)?;
    let root = Item::Data(values.clone());
    let mut renderer =
        Renderer { output: String::new(), variables: vec![("$".to_owned(), root.clone())], steps: 0 };
    renderer.nodes(&nodes, &root)?;
    Ok(Value::from(renderer.output.replace(NO_VALUE, UNDEFINED)))
}

/// What a template computes with.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Nothing,
    /// From the values: a number there is a text.
    Data(Value),
    Int(i64),
    Float(f64),
}

impl Item {
    fn text(text: impl Into<String>) -> Self {
        Self::Data(Value::from(text.into()))
    }

    fn of(value: Option<&Value>) -> Self {
        match value {
            None | Some(Value::Null) => Self::Nothing,
            Some(value) => Self::Data(value.clone()),
        }
    }

    /// A text, or a number written as one.
    fn as_text(&self) -> Option<String> {
        match self {
            Self::Data(Value::String(text)) => Some(text.to_string()),
            Self::Data(number @ Value::Number(_)) => Some(to_json(number)),
            Self::Data(_) | Self::Nothing | Self::Int(_) | Self::Float(_) => None,
        }
    }

    fn is_true(&self) -> bool {
        match self {
            Self::Nothing | Self::Data(Value::Null | Value::Undefined) => false,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Data(Value::Bool(value)) => *value,
            Self::Data(Value::Number(_)) => true,
            Self::Data(Value::String(text)) => !text.is_empty(),
            Self::Data(Value::Array(items)) => !items.is_empty(),
            Self::Data(Value::Set(items)) => !items.is_empty(),
            Self::Data(Value::Object(fields)) => !fields.is_empty(),
        }
    }

    /// The value under a name.
    fn field(&self, name: &str) -> Result<Self, Failure> {
        match self {
            Self::Data(Value::Object(fields)) => Ok(Self::of(fields.get(&Value::from(name)))),
            Self::Nothing => fault(format!("nil pointer evaluating .{name}")),
            Self::Data(_) | Self::Int(_) | Self::Float(_) => fault(format!("can't evaluate field {name}")),
        }
    }
}

/// Writes an item as Go's `fmt` prints it.
fn print(item: &Item, output: &mut String) {
    match item {
        Item::Nothing => output.push_str(NO_VALUE),
        Item::Int(number) => output.push_str(&number.to_string()),
        Item::Float(number) => output.push_str(&number.to_string()),
        Item::Data(value) => print_value(value, output),
    }
}

fn print_value(value: &Value, output: &mut String) {
    let list = |items: &mut dyn Iterator<Item = &Value>, output: &mut String| {
        output.push('[');
        for (index, item) in items.enumerate() {
            output.push_str(if index > 0 { " " } else { "" });
            print_value(item, output);
        }
        output.push(']');
    };
    match value {
        Value::Null | Value::Undefined => output.push_str("<nil>"),
        Value::Bool(_) | Value::Number(_) => output.push_str(&to_json(value)),
        Value::String(text) => output.push_str(text),
        Value::Array(items) => list(&mut items.iter(), output),
        Value::Set(items) => list(&mut items.iter(), output),
        Value::Object(fields) => {
            output.push_str("map[");
            for (index, (key, value)) in fields.iter_sorted().enumerate() {
                output.push_str(if index > 0 { " " } else { "" });
                print_value(key, output);
                output.push(':');
                print_value(value, output);
            }
            output.push(']');
        }
    }
}

/// Whether the loop around goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Renderer {
    output: String,
    /// Innermost last.
    variables: Vec<(String, Item)>,
    steps: usize,
}

impl Renderer {
    fn step(&mut self) -> Result<(), Failure> {
        self.steps += 1;
        if self.steps > STEPS_MAX || self.output.len() > OUTPUT_BYTES_MAX {
            return Err(Failure::Refused("template makes too much".to_owned()));
        }
        Ok(())
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Item) -> Result<Flow, Failure> {
        let scope = self.variables.len();
        let mut flow = Flow::On;
        for node in nodes {
            self.step()?;
            flow = self.node(node, dot)?;
            if flow != Flow::On {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Item) -> Result<Flow, Failure> {
        match node {
            Node::Text(text) => self.output.push_str(text),
            Node::Print(pipeline) => {
                let item = self.pipeline(pipeline, dot)?;
                print(&item, &mut self.output);
            }
            Node::Set { target, pipeline } => {
                let item = self.pipeline(pipeline, dot)?;
                self.set(target, item)?;
            }
            Node::If(branches) => return self.branches(branches, dot, false),
            Node::With(branches) => return self.branches(branches, dot, true),
            Node::Range { names, pipeline, body, otherwise } => {
                return self.range(names, pipeline, body, otherwise, dot);
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn set(&mut self, target: &Target, item: Item) -> Result<(), Failure> {
        match target {
            Target::Declare(name) => self.variables.push((name.clone(), item)),
            Target::Assign(name) => match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
                Some((_, slot)) => *slot = item,
                None => return fault(format!("undefined variable {name}")),
            },
        }
        Ok(())
    }

    fn branches(&mut self, branches: &[Branch], dot: &Item, rebinds: bool) -> Result<Flow, Failure> {
        let scope = self.variables.len();
        let mut flow = Flow::On;
        for Branch { target, condition, body } in branches {
            let item = match condition {
                Some(condition) => self.pipeline(condition, dot)?,
                None => Item::Int(1),
            };
            if let Some(target) = target {
                self.set(target, item.clone())?;
            }
            if item.is_true() {
                let is_otherwise = condition.is_none();
                flow = self.nodes(body, if rebinds && !is_otherwise { &item } else { dot })?;
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn range(
        &mut self,
        names: &[String],
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Item,
    ) -> Result<Flow, Failure> {
        let over = self.pipeline(pipeline, dot)?;
        let indexed = |items: &mut dyn Iterator<Item = &Value>| {
            items
                .zip(0_i64..)
                .map(|(item, index)| (Item::Int(index), Item::of(Some(item))))
                .collect::<Vec<_>>()
        };
        let entries = match &over {
            Item::Nothing => Vec::new(),
            Item::Data(Value::Array(items)) => indexed(&mut items.iter()),
            Item::Data(Value::Set(items)) => indexed(&mut items.iter()),
            Item::Data(Value::Object(fields)) => fields
                .iter_sorted()
                .map(|(key, value)| (Item::of(Some(key)), Item::of(Some(value))))
                .collect(),
            Item::Data(_) | Item::Int(_) | Item::Float(_) => return fault("range can't iterate over this"),
        };
        if entries.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, value) in entries {
            self.step()?;
            match names {
                [element] => self.variables.push((element.clone(), value.clone())),
                [index, element] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((element.clone(), value.clone()));
                }
                _ => {}
            }
            let flow = self.nodes(body, &value)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Item) -> Result<Item, Failure> {
        self.step()?;
        let mut piped = None;
        for command in &pipeline.0 {
            piped = Some(self.command(command, piped, dot)?);
        }
        Ok(piped.unwrap_or(Item::Nothing))
    }

    fn command(&mut self, command: &Command, piped: Option<Item>, dot: &Item) -> Result<Item, Failure> {
        match command {
            Command::Operand(operand) => match piped {
                None => self.operand(operand, dot),
                Some(_) => fault("a value is given an argument it does not take"),
            },
            Command::Call { name, arguments } => {
                let mut items = Vec::new();
                for argument in arguments {
                    let item = self.operand(argument, dot)?;
                    // The first argument that decides is the answer; the others are not evaluated.
                    let decides = (name == "and" && !item.is_true()) || (name == "or" && item.is_true());
                    if decides {
                        return Ok(item);
                    }
                    items.push(item);
                }
                items.extend(piped);
                function::call(name, &items)
            }
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Item) -> Result<Item, Failure> {
        let (mut item, path) = match operand {
            Operand::Literal(item) => return Ok(item.clone()),
            Operand::Dot(path) => (dot.clone(), path),
            Operand::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                match found {
                    Some((_, item)) => (item.clone(), path),
                    None => return fault(format!("undefined variable {name}")),
                }
            }
            Operand::Parenthesis(pipeline, path) => (self.pipeline(pipeline, dot)?, path),
        };
        for name in path {
            item = item.field(name)?;
        }
        Ok(item)
    }
}

#[cfg(test)]
mod tests;
