//! The names of log and span fields. One thing has one name in every module, so that a log can be searched.
//!
//! `tracing` takes field names as literals; this table is what those literals mean, and the names used by machinery that needs
//! them as values. Identities are logged in their full text form; what a peer sent is logged with `?`, which escapes control
//! characters.

macro_rules! fields {
    ($( $(#[doc = $doc:literal])+ $constant:ident = $name:literal; )+) => {
        $( $(#[doc = $doc])+ pub const $constant: &str = $name; )+

        /// Every name with its meaning.
        pub const ALL: &[(&str, &str)] = &[$( ($name, concat!($($doc),+)) ),+];
    };
}

fields! {
    /// The peer this is about: its peer id.
    PEER = "peer";
    /// The mesh: its id.
    MESH = "mesh";
    /// The pattern, by its protocol name.
    PATTERN = "pattern";
    /// The subject of a message, or the pattern of a subscription.
    SUBJECT = "subject";
    /// The name of a service.
    SERVICE = "service";
    /// The endpoint of a service.
    ENDPOINT = "endpoint";
    /// The connection, by the number the swarm gave it.
    CONNECTION = "connection";
    /// A multiaddress, or the address of a local client.
    ADDRESS = "address";
    /// What a peer wants to do: call, publish, read and so on.
    VERB = "verb";
    /// On what it wants to do it.
    RESOURCE = "resource";
    /// The kind of an error.
    KIND = "kind";
    /// An error's message with its causes.
    ERROR = "error";
    /// A bounded queue.
    QUEUE = "queue";
    /// Why something was refused or dropped.
    REASON = "reason";
    /// How long it took, in milliseconds.
    ELAPSED_MS = "elapsed_ms";
    /// A count of bytes.
    BYTES = "bytes";
    /// A task, by its name.
    TASK = "task";
    /// The W3C trace id that joins the logs of all nodes a request touches.
    TRACE_ID = "trace_id";
    /// The W3C span id.
    SPAN_ID = "span_id";
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_distinct_and_of_one_form() {
        let mut seen = std::collections::BTreeSet::new();
        for (name, meaning) in super::ALL {
            assert!(seen.insert(name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && meaning.trim().ends_with('.'));
        }
    }
}
