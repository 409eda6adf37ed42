//! Making a failing scenario smaller: fewer faults, fewer nodes, less work, and still failing.
//!
//! Works on the document, not on what it means: a change that makes a scenario that cannot be is one that does not fail, and
//! is taken back. What a candidate does is asked of a function, so that the search itself is plain and tested.
//!
//! How: lists (faults, attacks, workloads) by delta debugging, numbers by halving what can be taken away; again, until nothing
//! gets smaller or the tries are used up.

use toml::{Table, Value};

/// What is asked of a candidate: does it still fail?
pub type Fails<'a> = dyn FnMut(&Table) -> bool + 'a;

/// The lists that are made shorter, in the order in which it pays.
const LISTS: [&str; 3] = ["fault", "attack", "workload"];

/// Numbers in lists that are made smaller.
const NUMBERS: [(&str, &str); 4] = [
    ("fault", "count"),
    ("attack", "attackers"),
    ("workload", "count"),
    ("workload", "senders"),
];

/// A search for something smaller.
pub struct Search<'a> {
    best: Table,
    fails: &'a mut Fails<'a>,
    tries_left: usize,
    smaller: bool,
}

/// The smallest that was found, and how many candidates were tried.
pub fn shrink<'a>(scenario: Table, tries_max: usize, fails: &'a mut Fails<'a>) -> (Table, usize) {
    let mut search = Search {
        best: scenario,
        fails,
        tries_left: tries_max,
        smaller: true,
    };
    while search.smaller && search.tries_left > 0 {
        search.smaller = false;
        for list in LISTS {
            search.shorten(list);
        }
        search.fewer_nodes();
        for (list, number) in NUMBERS {
            search.lessen_all(list, number);
        }
    }
    (search.best, tries_max - search.tries_left)
}

impl Search<'_> {
    /// Takes the candidate if it still fails.
    fn take(&mut self, candidate: Table) -> bool {
        if self.tries_left == 0 || candidate == self.best {
            return false;
        }
        self.tries_left -= 1;
        let fails = (self.fails)(&candidate);
        if fails {
            self.best = candidate;
            self.smaller = true;
        }
        fails
    }

    fn len(&self, list: &str) -> usize {
        self.best.get(list).and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// Leaves out parts of a list: halves, then quarters, down to single entries.
    fn shorten(&mut self, list: &str) {
        let mut part = self.len(list);
        while part > 0 {
            let mut from = 0;
            while from < self.len(list) {
                let to = (from + part).min(self.len(list));
                if !self.take(without(&self.best, list, from, to)) {
                    from = to;
                }
            }
            part /= 2;
        }
    }

    /// Fewer nodes in each group, or in the only one.
    fn fewer_nodes(&mut self) {
        // One node alone is no mesh, and fails in its own ways.
        self.lessen(&["fleet", "nodes"], 2);
        let groups: Vec<String> = match self.best.get("fleet").and_then(Value::as_table) {
            Some(fleet) => fleet
                .iter()
                .filter(|(_, group)| group.is_table())
                .map(|(name, _)| name.clone())
                .collect(),
            None => Vec::new(),
        };
        for group in groups {
            self.lessen(&["fleet", &group, "count"], 1);
        }
    }

    fn lessen_all(&mut self, list: &str, number: &str) {
        for index in 0..self.len(list) {
            self.lessen(&[list, &index.to_string(), number], 1);
        }
    }

    /// A smaller number: first the least, then half of what can be taken away, and half of that.
    fn lessen(&mut self, path: &[&str], least: i64) {
        let Some(mut now) = number(&self.best, path) else {
            return;
        };
        let mut off = now - least;
        while off > 0 && self.tries_left > 0 {
            let mut candidate = self.best.clone();
            set_number(&mut candidate, path, now - off);
            if self.take(candidate) {
                now -= off;
                off = off.min(now - least);
            } else {
                off /= 2;
            }
        }
    }
}

/// The scenario without some entries of a list; and, with a workload, without the checks that name it.
fn without(scenario: &Table, list: &str, from: usize, to: usize) -> Table {
    let mut candidate = scenario.clone();
    let mut names = Vec::new();
    if let Some(Value::Array(entries)) = candidate.get_mut(list) {
        let gone: Vec<Value> = entries.drain(from..to).collect();
        names.extend(
            gone.iter()
                .filter_map(|entry| Some(entry.get("name")?.as_str()?.to_owned())),
        );
        if entries.is_empty() {
            candidate.remove(list);
        }
    }
    if list == "workload"
        && let Some(Value::Array(checks)) = candidate.get_mut("check")
    {
        checks.retain(|check| {
            let of = check.get("workload").and_then(Value::as_str);
            !of.is_some_and(|of| names.iter().any(|name| name == of))
        });
    }
    candidate
}

fn number(table: &Table, path: &[&str]) -> Option<i64> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(table.get(*first)?, |value, key| match value {
            Value::Array(entries) => entries.get(key.parse::<usize>().ok()?),
            other => other.get(key),
        })?
        .as_integer()
}

fn set_number(table: &mut Table, path: &[&str], number: i64) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let mut at = table.get_mut(*first);
    for key in rest {
        at = match at {
            Some(Value::Array(entries)) => key.parse::<usize>().ok().and_then(|index| entries.get_mut(index)),
            Some(other) => other.get_mut(key),
            None => None,
        };
    }
    if let Some(value) = at {
        *value = Value::Integer(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str = r#"
duration = "60s"
[fleet.a]
count = 100
[fleet.b]
count = 7
[[fault]]
kind = "kill"
[[fault]]
kind = "pause"
count = 9
[[fault]]
kind = "cut"
[[workload]]
kind = "publish"
name = "one"
[[workload]]
kind = "publish"
name = "two"
count = 50
[[check]]
kind = "delivery-ratio"
workload = "one"
[[check]]
kind = "delivery-ratio"
workload = "two"
"#;

    fn kinds(table: &Table, list: &str, key: &str) -> Vec<String> {
        let entries = table.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| entry[key].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn what_does_not_matter_goes() {
        // It fails as long as a pause meets three nodes of seventeen, and the workload `two` is there.
        let mut asked = 0;
        let mut fails = |table: &Table| {
            asked += 1;
            let pause = kinds(table, "fault", "kind").iter().position(|kind| kind == "pause");
            let met = pause.is_some_and(|at| number(table, &["fault", &at.to_string(), "count"]) >= Some(3));
            met && number(table, &["fleet", "a", "count"]) >= Some(17)
                && kinds(table, "workload", "name").contains(&"two".to_owned())
        };
        let (small, tries) = shrink(SCENARIO.parse().unwrap(), 500, &mut fails);
        assert_eq!(kinds(&small, "fault", "kind"), ["pause"]);
        assert_eq!(kinds(&small, "workload", "name"), ["two"]);
        assert_eq!(kinds(&small, "check", "workload"), ["two"]);
        assert_eq!(number(&small, &["fault", "0", "count"]), Some(3));
        assert_eq!(number(&small, &["fleet", "a", "count"]), Some(17));
        assert_eq!(number(&small, &["fleet", "b", "count"]), Some(1));
        assert_eq!(number(&small, &["workload", "0", "count"]), Some(1));
        assert_eq!(tries, asked);
        assert!(tries < 80, "{tries} tries");
        // And it can be written and read again.
        assert_eq!(toml::to_string(&small).unwrap().parse::<Table>().unwrap(), small);
    }

    #[test]
    fn nothing_gets_smaller_where_everything_matters_and_tries_end() {
        let whole: Table = SCENARIO.parse().unwrap();
        let (same, _) = shrink(whole.clone(), 500, &mut |_| false);
        assert_eq!(same, whole);
        let (_, tries) = shrink(whole, 3, &mut |_| true);
        assert_eq!(tries, 3);
    }
}
