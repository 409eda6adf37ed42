//! How urgent a message is.

use weft_protocol::patterns::pub_sub::Attributes;

/// The extension attribute that says it; without it, there is nothing special about a message.
pub(super) const PRIORITY: &str = "weftpriority";

/// How urgent a message is: what leaves its publisher first, and what a subscriber that is too slow loses last.
///
/// Messages of one publisher keep their order among those of one priority. In a subscriber's queue nothing overtakes anything; but there is some
/// room for urgent ones alone, and what can wait has no more than half.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before everything else.
    High = 0,
    /// As it comes.
    #[default]
    Normal = 1,
    /// When nothing else waits.
    Low = 2,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Its name, in the extension attribute `weftpriority` and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// The priority of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == name)
    }

    /// That of a message. What is said in another way than here is nothing special.
    pub(super) fn of(attributes: &Attributes) -> Self {
        attributes
            .extension(PRIORITY)
            .and_then(Self::from_name)
            .unwrap_or_default()
    }
}
