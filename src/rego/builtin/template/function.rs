//! The functions a template may call.

use std::cmp::Ordering;

use regorus::Value;

use super::{
    super::{Failure, encoding::to_json, engine},
    Item, fault, print,
};

/// Calls a function of Go's `text/template`.
pub(super) fn call(name: &str, items: &[Item]) -> Result<Item, Failure> {
    match (name, items) {
        // Whatever decides was found by the caller.
        ("and" | "or", [.., last]) => Ok(last.clone()),
        ("not", [item]) => Ok(truth(!item.is_true())),
        ("len", [item]) => length(item),
        ("index", [item, keys @ ..]) => keys.iter().try_fold(item.clone(), |item, key| index(&item, key)),
        ("slice", [item, bounds @ ..]) => slice(item, bounds),
        ("print", _) => Ok(Item::text(printed(items, false))),
        ("println", _) => Ok(Item::text(printed(items, true) + "\n")),
        ("printf", [format, rest @ ..]) => format_with(format, rest),
        ("html", _) => Ok(Item::text(escaped(&printed(items, false)))),
        ("urlquery", _) => {
            let text = Value::from(printed(items, false));
            engine::named("urlquery.encode", &[text]).map(Item::Data)
        }
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            for other in rest {
                if equal(first, other)? {
                    return Ok(truth(true));
                }
            }
            Ok(truth(false))
        }
        ("ne", [left, right]) => equal(left, right).map(|equal| truth(!equal)),
        ("lt", [left, right]) => compare(left, right).map(|order| truth(order.is_lt())),
        ("le", [left, right]) => compare(left, right).map(|order| truth(order.is_le())),
        ("gt", [left, right]) => compare(left, right).map(|order| truth(order.is_gt())),
        ("ge", [left, right]) => compare(left, right).map(|order| truth(order.is_ge())),
        _ => fault(format!("function {name:?} is not defined, or not for {} arguments", items.len())),
    }
}

fn truth(value: bool) -> Item {
    Item::Data(Value::from(value))
}

fn count(length: usize) -> Item {
    Item::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

fn length(item: &Item) -> Result<Item, Failure> {
    if let Some(text) = item.as_text() {
        return Ok(count(text.len()));
    }
    match item {
        Item::Data(Value::Array(items)) => Ok(count(items.len())),
        Item::Data(Value::Set(items)) => Ok(count(items.len())),
        Item::Data(Value::Object(fields)) => Ok(count(fields.len())),
        Item::Data(_) | Item::Nothing | Item::Int(_) | Item::Float(_) => fault("len of what has no length"),
    }
}

fn position(item: &Item) -> Result<usize, Failure> {
    if let Item::Int(number) = item
        && let Ok(position) = usize::try_from(*number)
    {
        return Ok(position);
    }
    fault("cannot index with this")
}

fn index(item: &Item, key: &Item) -> Result<Item, Failure> {
    match item {
        Item::Data(Value::Object(_)) => match key.as_text() {
            Some(name) => item.field(&name),
            None => fault("a map's key is a text"),
        },
        Item::Data(Value::Array(items)) => match items.get(position(key)?) {
            Some(found) => Ok(Item::of(Some(found))),
            None => fault("index out of range"),
        },
        Item::Data(_) | Item::Nothing | Item::Int(_) | Item::Float(_) => fault("can't index this"),
    }
}

fn slice(item: &Item, bounds: &[Item]) -> Result<Item, Failure> {
    let (from, to) = match bounds {
        [] => (0, None),
        [from] => (position(from)?, None),
        [from, to] => (position(from)?, Some(position(to)?)),
        _ => return fault("slice takes two bounds at most"),
    };
    let outside = || Failure::Error("template: index out of range".to_owned());
    match item {
        Item::Data(Value::String(text)) => {
            text.get(from..to.unwrap_or(text.len())).map(Item::text).ok_or_else(outside)
        }
        Item::Data(Value::Array(items)) => {
            let to = to.unwrap_or(items.len());
            if to > items.len() || from > to {
                return Err(outside());
            }
            Ok(Item::Data(Value::from(items.iter().take(to).skip(from).cloned().collect::<Vec<_>>())))
        }
        Item::Data(_) | Item::Nothing | Item::Int(_) | Item::Float(_) => fault("can't slice this"),
    }
}

/// As Go's `Sprint` and `Sprintln`: the first puts spaces only between two that are no texts.
fn printed(items: &[Item], always_spaced: bool) -> String {
    let is_text = |item: &Item| matches!(item, Item::Data(Value::String(_)));
    let mut output = String::new();
    for (number, item) in items.iter().enumerate() {
        let before = number.checked_sub(1).and_then(|number| items.get(number));
        let spaced = before.is_some_and(|before| always_spaced || !(is_text(before) || is_text(item)));
        output.push_str(if spaced { " " } else { "" });
        print(item, &mut output);
    }
    output
}

fn format_with(format: &Item, items: &[Item]) -> Result<Item, Failure> {
    let Some(format) = format.as_text() else { return fault("the format is a text") };
    let values = items.iter().map(|item| match item {
        Item::Nothing => Value::Null,
        Item::Int(number) => Value::from(*number),
        Item::Float(number) => Value::from(*number),
        // To Go it is a text.
        Item::Data(number @ Value::Number(_)) => Value::from(to_json(number)),
        Item::Data(value) => value.clone(),
    });
    let arguments = [Value::from(format), Value::from(values.collect::<Vec<_>>())];
    match super::super::lookup("sprintf").map(|sprintf| sprintf.checked(&arguments, true)) {
        Some(answer) => answer.map(Item::Data),
        None => fault("printf is not there"),
    }
}

fn escaped(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => output.push_str("&#34;"),
            '\'' => output.push_str("&#39;"),
            '&' => output.push_str("&amp;"),
            '<' => output.push_str("&lt;"),
            '>' => output.push_str("&gt;"),
            '\0' => output.push('\u{fffd}'),
            _ => output.push(character),
        }
    }
    output
}

fn equal(left: &Item, right: &Item) -> Result<bool, Failure> {
    match (left, right) {
        (Item::Nothing, other) | (other, Item::Nothing) => Ok(*other == Item::Nothing),
        (Item::Data(Value::Bool(left)), Item::Data(Value::Bool(right))) => Ok(left == right),
        _ => compare(left, right).map(Ordering::is_eq),
    }
}

fn compare(left: &Item, right: &Item) -> Result<Ordering, Failure> {
    match (left, right) {
        (Item::Int(left), Item::Int(right)) => Ok(left.cmp(right)),
        (Item::Float(left), Item::Float(right)) => Ok(left.total_cmp(right)),
        _ => match (left.as_text(), right.as_text()) {
            (Some(left), Some(right)) => Ok(left.cmp(&right)),
            _ => fault("incompatible types for comparison"),
        },
    }
}
