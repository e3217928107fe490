//! What tells whether a component is as it was: a sum of its configuration, with what came from outside.

use super::tree::Node;
use crate::systems::Mark;
use serde_json::Value;
use sha2::{Digest, Sha256};

impl Mark {
    /// Of a component as its node says, without some of its fields, and of the systems that it uses.
    pub(super) fn of<'m>(node: &Node, without: &[&str], systems: impl Iterator<Item = &'m Mark>) -> Mark {
        let mut value = node.json();
        if let Value::Object(fields) = &mut value {
            fields.retain(|name, _| !without.contains(&name.as_str()));
        }
        let mut sum = Sha256::new_with_prefix(value.to_string());
        systems.for_each(|mark| sum.update(mark.0));
        Mark(sum.finalize().into())
    }

    /// Of that, and these names.
    pub(super) fn and(self, names: &[String]) -> Mark {
        let mut sum = Sha256::new_with_prefix(self.0);
        for name in names {
            sum.update([0]);
            sum.update(name);
        }
        Mark(sum.finalize().into())
    }
}
