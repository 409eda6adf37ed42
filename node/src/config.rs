//! The node's configuration: one struct per module, every key documented, read once and checked whole.
//!
//! Sources, in rising order of authority: the defaults, a TOML file, environment variables `WEFT__SECTION__KEY`, flags. Durations
//! are written `"30s"`, sizes `"256MiB"`. Unknown keys are errors that name the nearest known key; all errors are reported at once,
//! each with the place it stands at. There are no secrets in a configuration: it may be printed and logged.
//!
//! A key is declared in one place, [`sections`](self), and has there its default, its explanation and whether a change takes effect
//! on reload.

mod check;
mod error;
mod section;
mod sections;
mod source;
#[cfg(test)]
mod tests;
mod value;

use std::{collections::BTreeMap, fmt::Write};

pub use error::{ConfigError, ConfigErrors, Origin};
pub use section::{Effect, Key, Section};
pub use sections::{
    ApiConfig, BlobsConfig, LimitsConfig, MeshConfig, NatsConfig, NodeConfig, StoreConfig, TelemetryConfig, TrustConfig,
};
pub use source::Sources;
pub use value::{ByteSize, LogFormat, Setting, Toggle, format_duration, parse_duration};

macro_rules! sections {
    ($count:literal: $( $(#[doc = $doc:literal])+ $field:ident: $type:ty, )+) => {
        /// The whole configuration of a node.
        #[derive(Debug, Clone, Default)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            origins: BTreeMap<String, Origin>,
        }

        impl Config {
            /// Every section, in the order of the file.
            pub fn sections(&self) -> [&dyn Section; $count] {
                [$( &self.$field ),+]
            }

            /// Takes over from `fresh` what can change while the node runs; everything else keeps its running value, so that a
            /// later comparison tells again what awaits a restart.
            pub fn take_reloadable(&mut self, fresh: &Config) {
                $( self.$field.take_reloadable(&fresh.$field); )+
                for section in fresh.sections() {
                    for key in section.keys().iter().filter(|key| key.effect == Effect::Live) {
                        let full = format!("{}.{}", section.name(), key.name);
                        match fresh.origins.get(&full) {
                            Some(origin) => self.origins.insert(full, origin.clone()),
                            None => self.origins.remove(&full),
                        };
                    }
                }
            }

            fn sections_mut(&mut self) -> [&mut dyn Section; $count] {
                [$( &mut self.$field ),+]
            }
        }

        /// Two configurations are equal when their values are, wherever these came from.
        impl PartialEq for Config {
            fn eq(&self, other: &Self) -> bool {
                $( self.$field == other.$field )&&+
            }
        }
    };
}

sections! { 9:
    /// The node itself.
    node: NodeConfig,
    /// The mesh.
    mesh: MeshConfig,
    /// Membership.
    trust: TrustConfig,
    /// The embedded store.
    store: StoreConfig,
    /// Payloads too large for a message.
    blobs: BlobsConfig,
    /// The local API.
    api: ApiConfig,
    /// The door for NATS clients.
    nats: NatsConfig,
    /// Bounds of the node as a whole.
    limits: LimitsConfig,
    /// Logs and traces.
    telemetry: TelemetryConfig,
}

/// What a new configuration would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys whose new value takes effect on reload.
    pub reloadable: Vec<String>,
    /// Keys whose new value takes effect at the next start.
    pub needs_restart: Vec<String>,
}

impl Config {
    /// Reads the sources and checks the result; on failure, everything that is wrong.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let (config, mut errors) = source::read(sources);
        // What could not be read stands at its default: its range says nothing, but a contradiction with another key may.
        errors.extend(check::check(&config));
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Checks ranges and contradictions; on failure, everything that is wrong.
    pub fn validate(&self) -> Result<(), ConfigErrors> {
        let errors = check::check(self);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Where the value of a key, such as `mesh.listen`, came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Whether somebody set a key, be it to its default.
    pub fn is_explicit(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// Whether the user chose `mesh.listen`; otherwise a node whose default ports are in use takes free ones.
    pub fn listen_explicit(&self) -> bool {
        self.is_explicit("mesh.listen")
    }

    /// Whether the user chose `api.listen`; otherwise a node whose default port is in use takes a free one.
    pub fn api_listen_explicit(&self) -> bool {
        self.is_explicit("api.listen")
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&dyn Section> {
        self.sections().into_iter().find(|section| section.name() == name)
    }

    fn section_mut(&mut self, name: &str) -> Option<&mut dyn Section> {
        self.sections_mut().into_iter().find(|section| section.name() == name)
    }

    /// The defaults as a TOML file that names and explains every key.
    pub fn defaults_annotated() -> String {
        let head = "# The configuration of a node: every key, with its default.\n\
            # A key is also an environment variable: mesh.listen is WEFT__MESH__LISTEN.\n";
        Self::default().render(head, |out, _, key| {
            key.doc.iter().try_for_each(|line| writeln!(out, "#{line}"))?;
            match key.effect {
                Effect::Live => writeln!(out, "# (takes effect on reload)"),
                Effect::Restart => Ok(()),
            }
        })
    }

    /// The values in effect as TOML, each that somebody set with the place it came from.
    pub fn to_toml(&self) -> String {
        self.render("", |out, full, _| match self.origin(full) {
            Origin::Default => Ok(()),
            origin => writeln!(out, "# from {}", origin.to_string().replace(char::is_control, "?")),
        })
    }

    fn render(&self, head: &str, note: impl Fn(&mut String, &str, &Key) -> std::fmt::Result) -> String {
        let mut out = String::from(head);
        let mut write = || -> std::fmt::Result {
            for section in self.sections() {
                if !out.is_empty() {
                    writeln!(out)?;
                }
                section.about().iter().try_for_each(|line| writeln!(out, "#{line}"))?;
                writeln!(out, "[{}]", section.name())?;
                for key in section.keys() {
                    note(&mut out, &format!("{}.{}", section.name(), key.name), key)?;
                    match section.show(key.name) {
                        Some(value) => writeln!(out, "{} = {value}", key.name)?,
                        None => writeln!(out, "# {} = (not set; {})", key.name, key.expects)?,
                    }
                }
            }
            Ok(())
        };
        write().expect("invariant: writing to a string does not fail");
        out
    }
}

/// What would change if `new` took the place of `old`, and when.
pub fn diff_reload(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    for (old, new) in old.sections().into_iter().zip(new.sections()) {
        for key in old.keys().iter().filter(|key| old.show(key.name) != new.show(key.name)) {
            let list = match key.effect {
                Effect::Live => &mut changes.reloadable,
                Effect::Restart => &mut changes.needs_restart,
            };
            list.push(format!("{}.{}", old.name(), key.name));
        }
    }
    changes
}
