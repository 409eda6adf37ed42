//! Nothing acknowledged is forgotten.

use super::{Evidence, Verdict};

/// README, "What it promises".
const SENTENCE: &str = "What the store acknowledged is on the disk, synced";

/// A node that was acknowledged as a member is one after every start; a call that was answered was served. Where the
/// scenario makes disks break their own promises, a forgotten membership is the disk's fault and not counted.
pub(super) fn none(evidence: &Evidence<'_>) -> Verdict {
    let counts = |what: &&String| evidence.disks_were_sound || !what.contains("forgot");
    let broken: Vec<&String> = evidence.oracle.broken_promises().iter().filter(counts).collect();
    Verdict {
        passed: broken.is_empty(),
        measured: match broken.first() {
            None => "nothing lost".to_owned(),
            Some(first) => format!("{} lost; the first: {first}", broken.len()),
        },
        limit: "none".to_owned(),
        sentence: SENTENCE,
    }
}
