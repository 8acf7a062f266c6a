//! Totals as one would count them by hand: a hash map whose keys are looked up without a copy.
//!
//! Invariant: a record is parsed once, and a pair of texts is copied only when it is new.

use super::{Needed, Parser, cents};
use hashbrown::{Equivalent, HashMap};
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

#[derive(PartialEq, Eq)]
struct Group(Box<str>, Box<str>);

struct GroupRef<'a>(&'a str, &'a str);

impl Hash for Group {
    fn hash<H: Hasher>(&self, h: &mut H) {
        GroupRef(&self.0, &self.1).hash(h);
    }
}

impl Hash for GroupRef<'_> {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.0.hash(h);
        self.1.hash(h);
    }
}

impl Equivalent<Group> for GroupRef<'_> {
    fn equivalent(&self, key: &Group) -> bool {
        *self.0 == *key.0 && *self.1 == *key.1
    }
}

/// The hand-written totals, of each (city, payment type) or of another pair of texts.
#[derive(Default)]
pub(crate) struct Totals {
    groups: Groups,
    parser: Parser,
}

#[derive(Default)]
struct Groups(HashMap<Group, (u64, i128)>);

impl Groups {
    #[inline]
    fn count(&mut self, first: &str, second: &str, amount: i128) {
        match self.0.get_mut(&GroupRef(first, second)) {
            Some((n, sum)) => {
                *n += 1;
                *sum += amount;
            }
            None => {
                self.0.insert(Group(first.into(), second.into()), (1, amount));
            }
        }
    }
}

impl Totals {
    /// Parses one record and adds it.
    #[inline]
    pub(crate) fn add(&mut self, record: &[u8]) {
        let o: Needed<'_> = self.parser.read(record);
        self.groups.count(o.city, o.payment_type, i128::from(o.qty) * cents(o.price));
    }

    /// Adds one to the count of a pair, and `amount` to its sum.
    #[inline]
    pub(crate) fn count(&mut self, first: &str, second: &str, amount: i128) {
        self.groups.count(first, second, amount);
    }

    pub(crate) fn answer(&self) -> (u64, i128) {
        self.groups.0.values().fold((0, 0), |a, v| (a.0 + v.0, a.1 + v.1))
    }

    /// A line for each group: the view, the pair, the count and the sum, which in money has two places.
    pub(crate) fn rows(&self, view: &str) -> BTreeSet<String> {
        let row = |(group, (n, sum)): (&Group, &(u64, i128))| format!("{view}|{}|{}|{n}|{}.{:02}", group.0, group.1, sum / 100, sum % 100);
        self.groups.0.iter().map(row).collect()
    }
}
