//! Changes to a scenario from the command line: `fleet.nodes=300`, `fault.0.count=2`.
//!
//! They are made in the document before it is read, so that they are checked like everything else in it, and the report has them
//! in its text.

use toml::{Table, Value};

use super::error::{Problem, ScenarioError};

/// The text of a scenario with these changes; `file` is its name in errors.
pub(super) fn change(file: &str, text: &str, sets: &[String]) -> Result<String, ScenarioError> {
    // Of a text that is no document, reading it says what is wrong, and where.
    let Ok(table) = text.parse::<Table>() else {
        return Ok(text.to_owned());
    };
    let mut document = Value::Table(table);
    let mut problems = Vec::new();
    for set in sets {
        if let Err(reason) = apply(&mut document, set) {
            problems.push(Problem {
                file: file.to_owned(),
                line: 0,
                key: format!("--set {}", super::field::shorten(set)),
                reason,
            });
        }
    }
    if !problems.is_empty() {
        return Err(ScenarioError::Invalid(problems));
    }
    toml::to_string(&document).map_err(|error| ScenarioError::Unreadable(format!("cannot change {file}: {error}")))
}

/// One change: the key's path, dots between; numbers for places in lists, counted from 0.
fn apply(document: &mut Value, set: &str) -> Result<(), String> {
    let (path, text) = set
        .split_once('=')
        .ok_or("is not of the form KEY=VALUE, such as fleet.nodes=300")?;
    let place = path.trim().split('.').try_fold(document, step)?;
    let text = text.trim();
    // A number, a list, a quoted text; everything else is text that needs no quotes here.
    *place = format!("x = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    Ok(())
}

fn step<'v>(at: &'v mut Value, key: &str) -> Result<&'v mut Value, String> {
    match at {
        _ if key.is_empty() => Err("has an empty part in its key".into()),
        Value::Array(entries) => {
            let count = entries.len();
            let entry = key.parse::<usize>().ok().and_then(|index| entries.get_mut(index));
            entry.ok_or_else(|| format!("names the entry {key} of a list that has {count}, counted from 0"))
        }
        Value::Table(table) => Ok(table.entry(key).or_insert_with(|| Value::Table(Table::new()))),
        _ => Err(format!("goes on with {key} where there is a plain value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "duration = \"9s\"\n[fleet]\nnodes = 3\n[[fault]]\nkind = \"kill\"\nat = \"2s\"\n";

    fn changed(sets: &[&str]) -> Result<Table, String> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let text = change("x.toml", TEXT, &sets).map_err(|error| error.to_string())?;
        Ok(text.parse().unwrap())
    }

    #[test]
    fn values_are_changed_and_added() {
        let table = changed(&[
            "fleet.nodes=300",
            "fault.0.at=3s",
            "scoring = false",
            "topology.kind=ring",
            "seed=\"7\"",
        ])
        .unwrap();
        assert_eq!(table["fleet"]["nodes"].as_integer(), Some(300));
        assert_eq!(table["fault"][0]["at"].as_str(), Some("3s"));
        assert_eq!(table["scoring"].as_bool(), Some(false));
        assert_eq!(table["topology"]["kind"].as_str(), Some("ring"));
        assert_eq!(table["seed"].as_str(), Some("7"));
    }

    #[test]
    fn what_names_no_place_is_refused() {
        assert_eq!(
            changed(&["fleet.nodes"]).unwrap_err(),
            "x.toml: --set \"fleet.nodes\" is not of the form KEY=VALUE, such as fleet.nodes=300"
        );
        assert_eq!(
            changed(&["fault.1.at=3s", "fleet.nodes.x=1", ".=1"]).unwrap_err(),
            "3 errors in the scenario\n  x.toml: --set \"fault.1.at=3s\" names the entry 1 of a list that has 1, counted from 0\n  \
             x.toml: --set \"fleet.nodes.x=1\" goes on with x where there is a plain value\n  \
             x.toml: --set \".=1\" has an empty part in its key"
        );
    }
}
