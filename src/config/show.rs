//! The effective configuration: what was written with every default filled in, and no secret.

use std::collections::BTreeSet;

use saphyr::{Mapping, Scalar as YamlScalar, Yaml, YamlEmitter};
use serde_json::Value;

use crate::config::model::ldap::{LdapProvider, SubjectFrom};
use crate::config::model::{self, Config};
use crate::config::place::Place;
use crate::config::raw::Gateway;
use crate::config::raw::identity::ldap::{Ldap, default_group_filter};
use crate::config::raw::identity::{Provider, default_refresh};
use crate::config::raw::part::Part;
use crate::config::raw::policy::default_size_limit;
use crate::config::yaml::{self, Data, Node};

/// Stands for what came from the environment or another file.
const SECRET: &str = "[secret]";

/// The effective configuration. It holds no secret, so it may be shown and logged.
#[derive(Debug)]
pub(super) struct Effective {
    tree: Node,
}

impl Effective {
    /// Fills in what depends on the machine or on other parts; the rest is in `written` already.
    pub(super) fn of(mut written: Gateway, config: &Config, source: &Node) -> Self {
        written.workers = Some(Part::new(u32::try_from(config.workers).unwrap_or(u32::MAX)));
        let listeners = written.listeners.get_mut().into_iter().flatten().filter_map(Part::get_mut);
        for listener in listeners {
            listener.apis.get_or_insert_with(|| api_names(source));
        }
        for (name, provider) in written.identity.get_mut().into_iter().flatten() {
            match (provider.get_mut(), config.identity.get(name.0.as_str())) {
                (Some(Provider::Jwt(jwt)), _) if jwt.jwks_uri.is_some() || jwt.discovery => {
                    jwt.refresh.get_or_insert_with(default_refresh);
                }
                (Some(Provider::Ldap(ldap)), Some(model::Provider::Ldap(config))) => {
                    fill_directory(ldap, config);
                }
                (_, _) => {}
            }
        }
        for policy in written.policies.get_mut().into_iter().flat_map(|map| map.values_mut()) {
            if let Some(policy) = policy.get_mut()
                && policy.bundle.contains("://")
            {
                policy.polling.get_or_insert_default();
                policy.size_limit.get_or_insert_with(default_size_limit);
            }
        }
        // JSON is YAML, and reading it back as such keeps the order of the fields, which a JSON value does not.
        let text = serde_json::to_string(&written).unwrap_or_default();
        let mut tree = yaml::parse(&text).map_or_else(|_| source.clone(), |(tree, _)| tree);
        hide(&mut tree, source);
        Self { tree }
    }

    pub(super) fn to_json(&self) -> String {
        format!("{:#}\n", self.tree.to_value())
    }

    pub(super) fn to_yaml(&self) -> String {
        let mut text = String::new();
        let mut emitter = YamlEmitter::new(&mut text);
        // Writing to a `String` cannot fail, and no key is missing its value.
        let _infallible = emitter.dump(&to_yaml(&self.tree));
        let text = text.strip_prefix("---\n").unwrap_or(&text);
        format!("{text}\n")
    }
}

fn fill_directory(written: &mut Ldap, config: &LdapProvider) {
    if written.enrich.is_none() {
        written.realm.get_or_insert_with(|| config.realm.clone());
        written.forward_credential.get_or_insert(config.forward_credential);
    }
    written.users.subject.get_or_insert_with(|| match &config.users.subject {
        SubjectFrom::Dn => "dn".to_owned(),
        SubjectFrom::Attribute(name) => name.clone(),
    });
    if let Some(groups) = written.groups.as_mut().filter(|groups| groups.base.is_some()) {
        groups.filter.get_or_insert_with(default_group_filter);
        groups.scope.get_or_insert_default();
    }
}

/// The names of all APIs, each once, secret ones hidden.
fn api_names(source: &Node) -> Vec<String> {
    let apis = source.field("apis").map(Node::items).unwrap_or_default();
    let names: BTreeSet<String> = apis
        .iter()
        .filter_map(|api| api.field("name"))
        .map(|name| match name.to_value() {
            Value::String(text) if !name.is_interpolated() => text,
            Value::String(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => SECRET.to_owned(),
        })
        .collect();
    names.into_iter().collect()
}

/// Hides what is secret in `source` at the same places of `tree`.
fn hide(tree: &mut Node, source: &Node) {
    tree.visit_scalars(&Place::root(), &mut |place, _, scalar| {
        if source.get(place).is_some_and(Node::is_interpolated) {
            scalar.value = Value::String(SECRET.to_owned());
            SECRET.clone_into(&mut scalar.source);
        }
    });
}

fn to_yaml(node: &Node) -> Yaml<'_> {
    match &node.data {
        Data::Sequence(items) => Yaml::Sequence(items.iter().map(to_yaml).collect()),
        Data::Mapping(entries) => {
            let key = |key: &'_ str| Yaml::Value(YamlScalar::String(key.to_owned().into()));
            Yaml::Mapping(
                entries.iter().map(|entry| (key(&entry.key), to_yaml(&entry.value))).collect::<Mapping<'_>>(),
            )
        }
        Data::Scalar(scalar) => Yaml::Value(match &scalar.value {
            Value::Bool(value) => YamlScalar::Boolean(*value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => YamlScalar::Integer(value),
                (None, Some(value)) => YamlScalar::FloatingPoint(value.into()),
                (None, None) => YamlScalar::String(number.to_string().into()),
            },
            Value::String(text) => YamlScalar::String(text.as_str().into()),
            Value::Null | Value::Array(_) | Value::Object(_) => YamlScalar::Null,
        }),
    }
}
