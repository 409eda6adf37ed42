//! What a section of the configuration is: named keys, each with a default, a sentence of explanation, and whether it can change
//! while the node runs.
//!
//! A section is declared once, by [`section!`]; its struct, its defaults, the reading, the annotated listing and the comparison on
//! reload all come from that declaration, so none of them can forget a key.

use toml::de::DeValue;

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// On reload.
    Live,
    /// At the next start.
    Restart,
}

/// One key of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name in the section.
    pub name: &'static str,
    /// The lines that explain it.
    pub doc: &'static [&'static str],
    /// When a change takes effect.
    pub effect: Effect,
    /// What a person may write.
    pub expects: &'static str,
}

/// A section seen without its type.
pub trait Section {
    /// The name in brackets.
    fn name(&self) -> &'static str;
    /// The lines that explain the section.
    fn about(&self) -> &'static [&'static str];
    /// Its keys in order of declaration.
    fn keys(&self) -> &'static [Key];
    /// Sets a key from a value of the file; the reason when it cannot. An unknown key is ignored: ask [`Section::keys`] before.
    fn set_value(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), String>;
    /// Sets a key from the texts of flags, or the one text of a variable when `whole`.
    fn set_text(&mut self, key: &str, texts: &[String], whole: bool) -> Result<(), String>;
    /// The value of a key as TOML; nothing when it is not set.
    fn show(&self, key: &str) -> Option<String>;
}

macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $section:literal $struct:ident {
            $( $(#[doc = $doc:literal])+ $effect:ident $field:ident: $type:ty = $default:expr; )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $struct {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        impl $struct {
            /// Takes over from `fresh` the keys that can change while the node runs.
            pub fn take_reloadable(&mut self, fresh: &Self) {
                $( if $crate::config::section::Effect::$effect == $crate::config::section::Effect::Live {
                    self.$field.clone_from(&fresh.$field);
                } )+
            }
        }

        impl Default for $struct {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $crate::config::section::Section for $struct {
            fn name(&self) -> &'static str {
                $section
            }

            fn about(&self) -> &'static [&'static str] {
                &[$($about),+]
            }

            fn keys(&self) -> &'static [$crate::config::section::Key] {
                &[$( $crate::config::section::Key {
                    name: stringify!($field),
                    doc: &[$($doc),+],
                    effect: $crate::config::section::Effect::$effect,
                    expects: <$type as $crate::config::value::Setting>::EXPECTS,
                } ),+]
            }

            fn set_value(&mut self, key: &str, value: &toml::de::DeValue<'_>) -> Result<(), String> {
                match key {
                    $( stringify!($field) => self.$field = $crate::config::value::Setting::from_value(value)?, )+
                    _ => {}
                }
                Ok(())
            }

            fn set_text(&mut self, key: &str, texts: &[String], whole: bool) -> Result<(), String> {
                match key {
                    $( stringify!($field) => {
                        self.$field = if whole {
                            $crate::config::value::Setting::from_text(texts.first().map_or("", String::as_str))?
                        } else {
                            $crate::config::value::Setting::from_texts(texts)?
                        }
                    } )+
                    _ => {}
                }
                Ok(())
            }

            fn show(&self, key: &str) -> Option<String> {
                match key {
                    $( stringify!($field) => $crate::config::value::Setting::to_toml(&self.$field), )+
                    _ => None,
                }
            }
        }
    };
}

pub(super) use section;
