//! What the abstract run notes: where a policy looks, and the known values that parts of the input meet.

use regorus::Value;

use super::analysis::{Abstract, Analysis, Atom, Step, WORK_MAX, children};
use super::lookup::element;
use super::sample::Via;

impl Analysis<'_> {
    pub(super) fn touch(&mut self, place: &[Step]) {
        if !place.is_empty() {
            self.found.root.at(place);
        }
        if let Some(owner) = self.owners.last() {
            let places = self.found.touched.entry(owner.clone()).or_default();
            if !places.contains(place) {
                places.insert(place.to_vec());
            }
        }
    }

    /// The value is used in a way that is not followed.
    pub(super) fn read(&mut self, value: &Abstract) {
        for atom in value {
            match atom {
                Atom::Input(place, _) => self.touch(place),
                Atom::Items(keys, elements) => {
                    self.read(keys);
                    self.read(elements);
                }
                Atom::Below(path) => self.read_below(path),
                Atom::Known(_) => {}
            }
        }
    }

    pub(super) fn read_below(&mut self, path: &[String]) {
        let keys: Vec<Option<String>> = path.iter().cloned().map(Some).collect();
        for id in super::super::graph::values(self.tree, &keys) {
            let value = self.rule(id);
            self.read(&value);
        }
    }

    pub(super) fn test(&mut self, place: &[Step], via: &[Via], value: &Value) {
        self.touch(place);
        if let ([Via::Count], Ok(count)) = (via, value.as_i64()) {
            if let Ok(count) = usize::try_from(count) {
                self.found.root.at(place).sizes.insert(count);
            }
            if !self.found.root.at(place).is_text() {
                return;
            }
        }
        let mut values = vec![value.clone()];
        for step in via.iter().rev() {
            values = values.iter().flat_map(|value| step.invert(value)).collect();
        }
        for value in values {
            self.found.is_cut |= !self.found.root.at(place).test(value);
        }
    }

    /// Each part of the input in `value` is tested with what `values` makes of the known ones in `with`.
    pub(super) fn test_all(
        &mut self,
        value: &Abstract,
        with: &Abstract,
        values: &dyn Fn(&Value) -> Vec<Value>,
    ) {
        for atom in value {
            match atom {
                Atom::Input(place, via) => {
                    self.touch(place);
                    for known in with {
                        if let Atom::Known(known) = known {
                            for value in values(known) {
                                self.test(place, via, &value);
                            }
                        }
                    }
                }
                Atom::Items(_, elements) => self.test_all(elements, with, values),
                Atom::Known(_) | Atom::Below(_) => {}
            }
        }
    }

    /// Two values are compared.
    pub(super) fn compare(&mut self, one: &Abstract, other: &Abstract) {
        self.read(one);
        self.read(other);
        for left in one {
            for right in other {
                self.work += 1;
                if self.work > WORK_MAX {
                    return;
                }
                self.meet(left, right);
            }
        }
    }

    pub(super) fn meet(&mut self, left: &Atom, right: &Atom) {
        match (left, right) {
            (Atom::Input(place, via), Atom::Known(value)) | (Atom::Known(value), Atom::Input(place, via)) => {
                self.test(place, via, value);
            }
            (Atom::Input(one, via), Atom::Input(other, other_via)) => {
                if one != other && via.is_empty() && other_via.is_empty() {
                    self.found.links.insert((one.clone(), other.clone()));
                }
            }
            (Atom::Input(place, via), Atom::Items(_, elements))
            | (Atom::Items(_, elements), Atom::Input(place, via)) => {
                if via.is_empty() {
                    self.compare(&Abstract::from([element(place)]), elements);
                }
            }
            (Atom::Items(_, one), Atom::Items(_, other)) => self.compare(one, other),
            (Atom::Items(_, elements), Atom::Known(value))
            | (Atom::Known(value), Atom::Items(_, elements)) => {
                let members: Abstract =
                    children(value).into_iter().map(|(_, child)| Atom::Known(child)).collect();
                self.compare(elements, &members);
            }
            (Atom::Known(_), Atom::Known(_)) | (Atom::Below(_), _) | (_, Atom::Below(_)) => {}
        }
    }

    pub(super) fn compare_order(&mut self, one: &Abstract, other: &Abstract) {
        self.compare(one, other);
        let around = |value: &Value| match value.as_i64() {
            Ok(number) => {
                [number.saturating_sub(1), number, number.saturating_add(1)].map(Value::from).to_vec()
            }
            Err(_) => vec![value.clone()],
        };
        self.test_all(one, other, &around);
        self.test_all(other, one, &around);
    }

    /// The value stands alone as a condition.
    pub(super) fn condition(&mut self, value: &Abstract) {
        self.read(value);
        for atom in value {
            if let Atom::Input(place, via) = atom
                && via.is_empty()
            {
                self.found.root.at(place).is_condition = true;
            }
        }
    }
}
