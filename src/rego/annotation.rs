//! `# METADATA` blocks: reading them, attaching them to packages and rules, and what
//! `rego.metadata.*` answers about them.
#![expect(clippy::wildcard_enum_match_arm, reason = "of YAML's kinds of value each field takes one or two")]

use std::collections::BTreeMap;

use regorus::Value;

use super::{
    fault::Fault,
    lower::{package_of, rule_path_of},
    parse::Parsed,
    tree::{ModuleId, Path},
};

/// Longest block, in bytes: YAML may stand for much more than it says.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Most aliases in a block.
const ALIASES_MAX: usize = 64;
/// Fields taken over as they are.
const PLAIN: [&str; 4] = ["organizations", "custom", "labels", "entrypoint"];
const TEXTS: [&str; 3] = ["title", "description", "id"];

/// The annotations of all modules.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    /// Of rules, by module and position in it, the nearest first.
    rules: BTreeMap<(ModuleId, usize), Vec<Value>>,
    documents: BTreeMap<Path, Value>,
    packages: BTreeMap<Path, Value>,
    subpackages: BTreeMap<Path, Value>,
}

/// A block and where it stands: its first and last line, from 1.
struct Block {
    at: usize,
    last_line: u32,
    yaml: String,
}

/// What a block stands before.
enum Subject {
    Package,
    Rule(usize),
}

impl Annotations {
    pub(crate) fn gather(modules: &[Parsed], faults: &mut Vec<Fault>) -> Self {
        let mut annotations = Self::default();
        for (id, parsed) in modules.iter().enumerate() {
            for block in blocks(parsed) {
                if let Err(message) = annotations.attach(id, parsed, &block) {
                    let place = parsed.text.place(block.at);
                    let hint = "write YAML after `# METADATA`, right before a package or a rule";
                    faults.push(Fault::new(place, "metadata_invalid", message).hint(hint));
                }
            }
        }
        annotations
    }

    fn attach(&mut self, module: ModuleId, parsed: &Parsed, block: &Block) -> Result<(), String> {
        let subject = subject_of(parsed, block)?;
        let (scope, annotation) = read(&block.yaml, &subject)?;
        let package = package_of(parsed);
        let redeclared = |old: Option<Value>| match old {
            Some(_) => Err(format!("{scope} annotation is declared twice")),
            None => Ok(()),
        };
        match (scope.as_str(), subject) {
            ("package", Subject::Package) => redeclared(self.packages.insert(package, annotation)),
            ("subpackages", Subject::Package) => redeclared(self.subpackages.insert(package, annotation)),
            ("rule", Subject::Rule(index)) => {
                self.rules.entry((module, index)).or_default().insert(0, annotation);
                Ok(())
            }
            ("document", Subject::Rule(index)) => {
                let path = parsed.syntax.policy.get(index).map(|rule| rule_path_of(&package, rule));
                redeclared(self.documents.insert(path.unwrap_or(package), annotation))
            }
            (_, Subject::Package) => {
                Err(format!("annotation scope `{scope}` cannot be applied to a package"))
            }
            (_, Subject::Rule(_)) => Err(format!("annotation scope `{scope}` cannot be applied to a rule")),
        }
    }

    /// Whether a rule, or the document it is part of, is annotated as an entry point.
    pub(crate) fn is_entrypoint(&self, module: ModuleId, index: usize, path: &Path) -> bool {
        let of_rule = self.rules.get(&(module, index)).into_iter().flatten();
        let says_so = |annotation: &Value| matches!(annotation, Value::Object(fields) if fields.get(&Value::from("entrypoint")) == Some(&Value::from(true)));
        of_rule.chain(self.documents.get(path)).any(says_so)
    }

    /// What `rego.metadata.rule()` answers in a rule.
    pub(crate) fn rule(&self, module: ModuleId, index: usize) -> Value {
        let nearest = self.rules.get(&(module, index)).and_then(|annotations| annotations.first());
        nearest.cloned().unwrap_or_else(Value::new_object)
    }

    /// What `rego.metadata.chain()` answers in a rule: from the rule outwards.
    pub(crate) fn chain(&self, module: ModuleId, index: usize, path: &Path, package: &Path) -> Value {
        let link = |path: &[String], annotation: Option<&Value>| {
            let path = path.iter().map(|name| Value::from(name.as_str())).collect::<Vec<_>>();
            let mut fields = BTreeMap::from([(Value::from("path"), Value::from(path))]);
            fields.extend(annotation.map(|annotation| (Value::from("annotations"), annotation.clone())));
            Value::from(fields)
        };
        let mut chain: Vec<Value> = match self.rules.get(&(module, index)) {
            Some(own) => own.iter().map(|annotation| link(path, Some(annotation))).collect(),
            // The rule itself always leads.
            None => vec![link(path, None)],
        };
        chain.extend(self.documents.get(path).map(|annotation| link(path, Some(annotation))));
        chain.extend(self.packages.get(package).map(|annotation| link(package, Some(annotation))));
        for length in (1..=package.len()).rev() {
            let above = package.get(..length).unwrap_or_default();
            chain.extend(self.subpackages.get(above).map(|annotation| link(above, Some(annotation))));
        }
        Value::from(chain)
    }
}

/// The blocks of a file: a line of its own that says METADATA, and the comments right below.
fn blocks(parsed: &Parsed) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    let mut at = 0;
    for (line, number) in parsed.text.content.split_inclusive('\n').zip(1_u32..) {
        let start = at + line.len() - line.trim_start().len();
        at += line.len();
        let comment = line.trim().strip_prefix('#').filter(|_| !is_inside_token(parsed, start));
        match comment {
            Some(comment) if comment.trim() == "METADATA" => {
                blocks.push(Block { at: start, last_line: number, yaml: String::new() });
                open = true;
            }
            Some(comment) if open => {
                if let Some(block) = blocks.last_mut() {
                    block.yaml.push_str(comment);
                    block.yaml.push('\n');
                    block.last_line = number;
                }
            }
            Some(_) => {}
            None => open = false,
        }
    }
    blocks
}

fn is_inside_token(parsed: &Parsed, at: usize) -> bool {
    let index = parsed.tokens.partition_point(|token| token.start <= at);
    index.checked_sub(1).and_then(|index| parsed.tokens.get(index)).is_some_and(|token| at < token.end)
}

fn subject_of(parsed: &Parsed, block: &Block) -> Result<Subject, String> {
    let line = |start: u32| parsed.text.line_of(start as usize).0;
    let syntax = &parsed.syntax;
    let package = (line(syntax.package.span.start), Some(Subject::Package));
    let imports = syntax.imports.iter().map(|import| (line(import.span.start), None));
    let rules = syntax.policy.iter().enumerate();
    let rules = rules.map(|(index, rule)| (line(rule.span().start), Some(Subject::Rule(index))));
    let after = imports.chain([package]).chain(rules).filter(|(line, _)| *line > block.last_line);
    match after.min_by_key(|(line, _)| *line) {
        Some((_, Some(subject))) => Ok(subject),
        Some((_, None)) => Err("annotations cannot be applied to an import".to_owned()),
        None => Err("annotations stand before nothing".to_owned()),
    }
}

/// Reads one element of a list in an annotation.
type ElementReader = fn(&Value) -> Result<Value, String>;

/// The scope of a block and its annotation in the form OPA gives it out.
fn read(yaml: &str, subject: &Subject) -> Result<(String, Value), String> {
    if yaml.len() > BLOCK_BYTES_MAX || yaml.matches('*').count() > ALIASES_MAX {
        return Err(format!(
            "annotations are longer than {} KiB or have more than {ALIASES_MAX} aliases",
            BLOCK_BYTES_MAX >> 10
        ));
    }
    if yaml.trim().is_empty() {
        return Err("annotations are empty".to_owned());
    }
    let raw = Value::from_yaml_str(yaml).map_err(|error| format!("annotations are no YAML: {error}"))?;
    let Value::Object(fields) = &raw else { return Err("annotations are no YAML mapping".to_owned()) };
    let field = |name: &str| fields.get(&Value::from(name)).filter(|value| **value != Value::Null);
    let is_entrypoint = field("entrypoint") == Some(&Value::from(true));
    let scope = match field("scope") {
        Some(Value::String(scope)) if ["rule", "document", "package", "subpackages"].contains(&&**scope) => {
            scope.to_string()
        }
        Some(other) => {
            return Err(format!(
                "invalid annotation scope {other}: use one of `rule`, `document`, `package` and `subpackages`"
            ));
        }
        None => match subject {
            Subject::Package => "package".to_owned(),
            // An entry point is the whole document.
            Subject::Rule(_) if is_entrypoint => "document".to_owned(),
            Subject::Rule(_) => "rule".to_owned(),
        },
    };
    let mut annotation = BTreeMap::from([(Value::from("scope"), Value::from(scope.as_str()))]);
    let mut set = |name: &str, value: Value| annotation.insert(Value::from(name), value);
    for name in TEXTS {
        match field(name) {
            None => {}
            Some(text @ Value::String(_)) => drop(set(name, text.clone())),
            Some(scalar @ (Value::Number(_) | Value::Bool(_))) => {
                drop(set(name, Value::from(scalar.to_string())));
            }
            Some(_) => return Err(format!("`{name}` is no text")),
        }
    }
    for name in PLAIN {
        let value = field(name).filter(|value| **value != Value::from(false));
        value.map(|value| set(name, value.clone()));
    }
    let lists: [(&str, ElementReader); 3] =
        [("authors", author), ("related_resources", resource), ("schemas", schema)];
    for (name, element) in lists {
        match field(name) {
            None => {}
            Some(Value::Array(items)) => {
                let items = items.iter().map(element).collect::<Result<Vec<_>, _>>()?;
                set(name, Value::from(items));
            }
            Some(_) => return Err(format!("`{name}` is no list")),
        }
    }
    Ok((scope, Value::from(annotation)))
}

fn object<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
    fields.map(|(name, value)| (Value::from(name), Value::from(value))).collect::<BTreeMap<_, _>>().into()
}

/// `Name <mail>`, or a mapping.
fn author(value: &Value) -> Result<Value, String> {
    match value {
        Value::Object(_) => Ok(value.clone()),
        Value::String(text) => {
            let (name, email) = match text.rsplit_once('<') {
                Some((name, email)) if email.ends_with('>') => (name.trim(), email.trim_end_matches('>')),
                Some(_) | None => (text.trim(), ""),
            };
            Ok(object([("name", name), ("email", email)]))
        }
        _ => Err("an author is neither text nor mapping".to_owned()),
    }
}

/// A URL, or a mapping with `ref`.
fn resource(value: &Value) -> Result<Value, String> {
    match value {
        Value::Object(_) => Ok(value.clone()),
        Value::String(url) => Ok(object([("ref", &**url)])),
        _ => Err("a related resource is neither text nor mapping".to_owned()),
    }
}

/// `path: schema.name`, or `path: {inline schema}`.
fn schema(value: &Value) -> Result<Value, String> {
    let wrong = || "a schema is a path with the schema for it".to_owned();
    let Value::Object(fields) = value else { return Err(wrong()) };
    let Some((Value::String(path), schema)) = fields.iter().next() else { return Err(wrong()) };
    let (name, schema) = match schema {
        Value::String(reference) => ("schema", components(reference)),
        definition @ Value::Object(_) => ("definition", definition.clone()),
        _ => return Err(wrong()),
    };
    let fields = [(Value::from("path"), components(path)), (Value::from(name), schema)];
    Ok(BTreeMap::from(fields).into())
}

/// `a.b["c"]` as its names.
fn components(reference: &str) -> Value {
    let names = reference.split(['.', '[', ']', '"']).filter(|name| !name.is_empty());
    Value::from(names.map(Value::from).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::parse::parse;
    use crate::rego::v0::RegoVersion;

    fn gathered(texts: &[&str]) -> (Annotations, Vec<Fault>) {
        let modules: Vec<Parsed> =
            texts.iter().map(|text| parse("p.rego", text, RegoVersion::V1).unwrap()).collect();
        let mut faults = Vec::new();
        (Annotations::gather(&modules, &mut faults), faults)
    }

    #[test]
    fn blocks_belong_to_what_follows() {
        let text = "# METADATA\n# title: pkg\n# authors:\n# - A <a@b>\n# - <c@d>\n# schemas:\n# - input.x: schema[\"s\"]\npackage a.b\n\n\
            # METADATA\n# scope: document\n# title: doc\n# METADATA\n# title: own\n\np := `\n# METADATA\n# title: no\n`\nq := 1\n\
            # METADATA\n# entrypoint: true\n# related_resources: [http://x]\nr := 1\n";
        let above = "# METADATA\n# scope: subpackages\n# title: sub\npackage a\n";
        let (annotations, faults) = gathered(&[text, above]);
        assert_eq!(faults, []);
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Path>();
        let chain = |index, rule: &str| {
            let chain = annotations.chain(0, index, &path(rule), &path("a.b"));
            serde_json::to_string(&chain).unwrap()
        };
        let package = r#"{"annotations":{"authors":[{"email":"a@b","name":"A"},{"email":"c@d"}],"schemas":[{"path":["input","x"],"schema":["schema","s"]}],"scope":"package","title":"pkg"},"path":["a","b"]}"#;
        let sub = r#"{"annotations":{"scope":"subpackages","title":"sub"},"path":["a"]}"#;
        let own = r#"{"annotations":{"scope":"rule","title":"own"},"path":["a","b","p"]}"#;
        let document = r#"{"annotations":{"scope":"document","title":"doc"},"path":["a","b","p"]}"#;
        assert_eq!(chain(0, "a.b.p"), format!("[{own},{document},{package},{sub}]"));
        assert_eq!(chain(1, "a.b.q"), format!(r#"[{{"path":["a","b","q"]}},{package},{sub}]"#));
        let entrypoint = r#"{"annotations":{"entrypoint":true,"related_resources":[{"ref":"http://x"}],"scope":"document"},"path":["a","b","r"]}"#;
        assert_eq!(chain(2, "a.b.r"), format!(r#"[{{"path":["a","b","r"]}},{entrypoint},{package},{sub}]"#));
        assert_eq!(annotations.rule(0, 0)["title"], Value::from("own"));
        assert_eq!(annotations.rule(0, 1), Value::new_object());
    }

    #[test]
    fn what_opa_refuses_is_refused_with_its_place() {
        for (text, line) in [
            ("# METADATA\n# scope: nonsense\npackage x\n", 1),
            ("# METADATA\n# - a\npackage x\n", 1),
            ("# METADATA\n# title: a: b\npackage x\n", 1),
            ("package x\n# METADATA\n# title: a\nimport data.foo\n", 2),
            ("package x\n# METADATA\n# scope: package\np := 1\n", 2),
            ("package x\np := 1\n# METADATA\n# title: a\n", 3),
            ("# METADATA\n# scope: rule\npackage x\n", 1),
            ("# METADATA\n# authors: a\npackage x\n", 1),
            ("# METADATA\npackage x\n", 1),
            ("package x\n# METADATA\n# scope: document\np := 1\n# METADATA\n# scope: document\np := 1\n", 5),
        ] {
            let (_, faults) = gathered(&[text]);
            let places: Vec<u32> = faults.iter().map(|fault| fault.place.line).collect();
            assert_eq!(places, [line], "{text}");
        }
    }
}
