//! Looking into values in the abstract run: by key, by any key, into the input, known values, and what rules make.

use std::collections::BTreeSet;

use regorus::Value;

use super::super::tree::Path;
use super::analysis::{Abstract, Analysis, Atom, KEYS_MAX, PLACE_MAX, Step, base, children};
use super::sample::Via;

impl Analysis<'_> {
    /// The keys and the elements of a collection.
    pub(super) fn iterate(&mut self, collection: &Abstract) -> (Abstract, Abstract) {
        let (mut keys, mut elements) = (Abstract::new(), Abstract::new());
        for atom in collection {
            match atom {
                Atom::Input(place, via) => {
                    self.touch(place);
                    if let Some(below) = part(place, via, Step::Element) {
                        elements.insert(below);
                    }
                    if via.is_empty() {
                        keys.extend(part(place, via, Step::Name));
                    }
                }
                Atom::Known(value) => {
                    for (key, child) in children(value) {
                        keys.insert(Atom::Known(key));
                        elements.insert(Atom::Known(child));
                    }
                }
                Atom::Items(own_keys, own) => {
                    keys.extend(own_keys.iter().cloned());
                    elements.extend(own.iter().cloned());
                }
                Atom::Below(path) => {
                    for name in self.names_below(path) {
                        keys.insert(Atom::Known(Value::from(name.as_str())));
                        let path: Path = path.iter().cloned().chain([name]).collect();
                        elements.extend(self.data(&path));
                    }
                }
            }
        }
        (self.settle(keys), self.settle(elements))
    }

    pub(super) fn names_below(&self, path: &[String]) -> BTreeSet<String> {
        let rules = self.tree.rules.iter().filter(|rule| rule.path.starts_with(path) && !rule.is_function());
        let names = rules.filter_map(|rule| rule.path.get(path.len()).cloned());
        let data = base(self.data, path).and_then(|base| base.as_object().ok());
        let own = data.into_iter().flat_map(|fields| fields.iter().map(|(key, _)| key));
        names.chain(own.filter_map(|key| key.as_string().ok().map(ToString::to_string))).collect()
    }

    /// What stands at a key of a value.
    pub(super) fn look_up(&mut self, value: &Abstract, key: &Abstract) -> Abstract {
        let mut found = Abstract::new();
        self.read(key);
        for atom in value {
            self.work += 1;
            match atom {
                Atom::Input(place, via) => found.extend(self.look_into_input(place, via, key)),
                Atom::Known(collection) => found.extend(self.look_into_known(collection, key)),
                Atom::Items(keys, elements) => {
                    self.compare(keys, key);
                    found.extend(elements.iter().cloned());
                }
                Atom::Below(path) => {
                    let constant: Vec<String> = key
                        .iter()
                        .filter_map(|atom| match atom {
                            Atom::Known(key) => key.as_string().ok().map(ToString::to_string),
                            Atom::Input(..) | Atom::Items(..) | Atom::Below(_) => None,
                        })
                        .collect();
                    let is_constant = constant.len() == key.len() && !key.is_empty();
                    let names = if is_constant {
                        constant.into_iter().collect()
                    } else {
                        let names = self.names_below(path);
                        let known =
                            names.iter().map(|name| Atom::Known(Value::from(name.as_str()))).collect();
                        self.compare(key, &known);
                        names
                    };
                    for name in names {
                        let path: Path = path.iter().cloned().chain([name]).collect();
                        found.extend(self.data(&path));
                    }
                }
            }
        }
        self.settle(found)
    }

    pub(super) fn look_into_input(&mut self, place: &[Step], via: &[Via], key: &Abstract) -> Abstract {
        let mut found = Abstract::new();
        if key.is_empty() || key.len() > KEYS_MAX || !via.is_empty() {
            let index = key.iter().find_map(|atom| match atom {
                Atom::Known(index) => index.as_i64().ok().and_then(|index| usize::try_from(index).ok()),
                Atom::Input(..) | Atom::Items(..) | Atom::Below(_) => None,
            });
            found.extend(part(place, via, index.map_or(Step::Element, Step::Index)));
            if via.is_empty() {
                self.touch(place);
            }
            return found;
        }
        for atom in key {
            match atom {
                Atom::Known(Value::String(key)) => found.extend(part(place, via, Step::Key(key.to_string()))),
                Atom::Known(key) => {
                    let index = key.as_i64().ok().and_then(|index| usize::try_from(index).ok());
                    found.extend(part(place, via, index.map_or(Step::Element, Step::Index)));
                }
                Atom::Input(..) => {
                    let name: Abstract = part(place, via, Step::Name).into_iter().collect();
                    self.compare(&name, &Abstract::from([atom.clone()]));
                    found.extend(part(place, via, Step::Element));
                }
                Atom::Items(..) | Atom::Below(_) => found.extend(part(place, via, Step::Element)),
            }
        }
        found
    }

    pub(super) fn look_into_known(&mut self, collection: &Value, key: &Abstract) -> Abstract {
        let mut found = Abstract::new();
        let mut wants_all = key.is_empty();
        for atom in key {
            match atom {
                Atom::Known(key) => {
                    let child = match collection {
                        Value::Object(fields) => fields.get(key).cloned(),
                        Value::Array(items) => {
                            let index = key.as_i64().ok().and_then(|index| usize::try_from(index).ok());
                            index.and_then(|index| items.get(index)).cloned()
                        }
                        Value::Set(items) => items.contains(key).then(|| key.clone()),
                        Value::Null
                        | Value::Bool(_)
                        | Value::Number(_)
                        | Value::String(_)
                        | Value::Undefined => None,
                    };
                    found.extend(child.map(Atom::Known));
                }
                Atom::Input(..) => {
                    let keys = children(collection).into_iter().map(|(key, _)| Atom::Known(key)).collect();
                    self.compare(&Abstract::from([atom.clone()]), &keys);
                    wants_all = true;
                }
                Atom::Items(..) | Atom::Below(_) => wants_all = true,
            }
        }
        if wants_all {
            found.extend(children(collection).into_iter().map(|(_, child)| Atom::Known(child)));
        }
        found
    }
}

/// A part of a part of the input.
fn part(place: &[Step], via: &[Via], step: Step) -> Option<Atom> {
    let Some((last, before)) = via.split_last() else {
        let mut place = place.to_vec();
        if place.len() >= PLACE_MAX {
            return None;
        }
        place.push(step);
        return Some(Atom::Input(place, Vec::new()));
    };
    let Via::Split(delimiter) = last else { return Some(Atom::Input(place.to_vec(), Vec::new())) };
    let index = match step {
        Step::Index(index) => index,
        Step::Key(_) | Step::Element | Step::Name => 0,
    };
    let via = before.iter().cloned().chain([Via::Item(delimiter.clone(), index)]).collect();
    Some(Atom::Input(place.to_vec(), via))
}

pub(super) fn element(place: &[Step]) -> Atom {
    Atom::Input(place.iter().cloned().chain([Step::Element]).collect(), Vec::new())
}
