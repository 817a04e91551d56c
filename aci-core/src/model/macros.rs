//! The two forms in which the model's types are written down.

/// A JSON object.
///
/// Each line: the field, its type, `=>` the property's name, flags in brackets, then the first
/// stable api-version that has it and, after a stroke, the first preview if that was earlier;
/// `..` and a version where it is gone from later ones.
///
/// Flags: `required` (a document without it does not deserialise), `read_only` (only in replies),
/// `always` (written even when empty), `defaulted` (absent reads as the default, which is not
/// written), `alias("x")` (an older name).
macro_rules! object {
    (
        $(#[$meta:meta])*
        $name:ident {
            $(
                $(#[$fmeta:meta])*
                $field:ident : $ty:ty => $json:literal [ $($flag:ident $(($arg:literal))?),* ] $stable:literal $(/ $preview:literal)? $(.. $until:literal)?;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $(
                $(#[$fmeta])*
                #[doc = ""]
                #[doc = concat!("`", $json, "`, api-version ", $stable, $(" (preview ", $preview, ")",)? $(" up to ", $until,)? ".")]
                pub $field: $ty,
            )*
            /// Properties that this crate does not know.
            pub unknown: $crate::model::UnknownProperties,
        }

        impl $name {
            /// The properties, in the order in which they are written.
            pub(crate) const ROWS: &'static [$crate::model::codec::PropertyRow] = &[
                $(
                    $crate::model::codec::PropertyRow {
                        name: $json,
                        since: $crate::model::version::Availability::of(
                            $stable,
                            concat!($($preview)?),
                            concat!($($until)?),
                        ),
                        required: $crate::model::macros::has_flag!(required $($flag)*),
                        read_only: $crate::model::macros::has_flag!(read_only $($flag)*),
                        shape: &<$ty as $crate::model::codec::Property>::SHAPE,
                    },
                )*
            ];
        }

        impl $crate::model::codec::Property for $name {
            const SHAPE: $crate::model::codec::Shape = $crate::model::codec::Shape::Object(Self::ROWS);

            fn read(node: &$crate::document::tree::Node, reader: &mut $crate::model::codec::Reader<'_>) -> Self {
                let entries = reader.object(node);
                let complete = node.entries().is_some();
                let mut unknown = $crate::model::UnknownProperties::default();
                $( let mut $field: Option<$ty> = None; )*
                for entry in entries {
                    let mut rows = Self::ROWS.iter();
                    $(
                        if let Some(row) = rows.next()
                            && (entry.key.eq_ignore_ascii_case($json)
                                $($( || $crate::model::macros::alias!($flag, $arg, entry.key) )?)*)
                        {
                            reader.property(&mut $field, row, entry);
                            continue;
                        }
                    )*
                    reader.unknown(&mut unknown, entry, Self::ROWS);
                }
                if !complete {
                    return Self::default();
                }
                let mut rows = Self::ROWS.iter();
                Self {
                    $( $field: match rows.next() {
                        Some(row) => reader.finish($field, row, node),
                        None => Default::default(),
                    }, )*
                    unknown,
                }
            }

            fn write(&self, writer: &$crate::model::codec::Writer) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                let mut rows = Self::ROWS.iter();
                $(
                    if let Some(row) = rows.next() {
                        let always = $crate::model::macros::has_flag!(always $($flag)*);
                        let left_out = $crate::model::macros::has_flag!(defaulted $($flag)*)
                            && self.$field == <$ty as Default>::default();
                        if !left_out {
                            writer.property(&mut map, row, &self.$field, always);
                        }
                    }
                )*
                writer.unknown(&mut map, &self.unknown);
                serde_json::Value::Object(map)
            }
        }

        $crate::model::codec::serde_through_json!($name);
    };
}
pub(crate) use object;

/// Whether a flag is among the flags of a property.
macro_rules! has_flag {
    (required required $($rest:ident)*) => { true };
    (read_only read_only $($rest:ident)*) => { true };
    (always always $($rest:ident)*) => { true };
    (defaulted defaulted $($rest:ident)*) => { true };
    ($wanted:ident $other:ident $($rest:ident)*) => { $crate::model::macros::has_flag!($wanted $($rest)*) };
    ($wanted:ident) => { false };
}
pub(crate) use has_flag;

/// Whether a key is the older name of a property.
macro_rules! alias {
    (alias, $arg:literal, $key:expr) => {
        $key.eq_ignore_ascii_case($arg)
    };
}
pub(crate) use alias;

/// A string with known values that may hold others: read without regard to case and white space,
/// written in the known spelling; a value that is not known is kept as it is.
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        $name:ident {
            $(#[$fmeta:meta])*
            $first:ident = $ftext:literal,
            $( $(#[$vmeta:meta])* $variant:ident = $text:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[$fmeta])*
            #[default]
            $first,
            $( $(#[$vmeta])* $variant, )*
            /// A value that this crate does not know, as it was written.
            Other(String),
        }

        impl $name {
            /// The values that are known, as they are written.
            pub const KNOWN: &'static [&'static str] = &[$ftext, $($text),*];

            /// The value as it is written.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::$first => $ftext,
                    $( Self::$variant => $text, )*
                    Self::Other(text) => text,
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                let given = || text.bytes().filter(|b| !b.is_ascii_whitespace()).map(|b| b.to_ascii_lowercase());
                let is = |known: &str| {
                    given().eq(known.bytes().filter(|b| !b.is_ascii_whitespace()).map(|b| b.to_ascii_lowercase()))
                };
                if is($ftext) {
                    return Self::$first;
                }
                $( if is($text) { return Self::$variant; } )*
                Self::Other(text.to_owned())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::model::codec::Property for $name {
            const SHAPE: $crate::model::codec::Shape = $crate::model::codec::Shape::Choice(Self::KNOWN);

            fn read(node: &$crate::document::tree::Node, reader: &mut $crate::model::codec::Reader<'_>) -> Self {
                Self::from(reader.text(node).as_str())
            }

            fn write(&self, _: &$crate::model::codec::Writer) -> serde_json::Value {
                serde_json::Value::String(self.as_str().to_owned())
            }
        }

        $crate::model::codec::serde_through_json!($name);
    };
}
pub(crate) use open_enum;
