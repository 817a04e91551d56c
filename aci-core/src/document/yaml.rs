//! Reads YAML into a tree with places.
//!
//! Scalars keep the text that people wrote, so that `0755`, `on` and `2019-12-01` stay what they
//! are where the model wants a string. What a plain scalar is by itself follows YAML 1.2's core
//! schema, narrowed to JSON's numbers. This module is the only one that knows the parser.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::json::{SyntaxError, duplicate, is_number, shown_key};
use super::limits::{Budget, MAX_DEPTH, NODE_WEIGHT};
use super::tree::{Data, Entry, Node, Place, Scalar, ScalarKind};

/// A collection or document that is being read.
enum Frame {
    List {
        items: Vec<Node>,
        place: Place,
        anchor: usize,
        spent: usize,
    },
    Map {
        entries: Vec<Entry>,
        keys: HashMap<String, Place>,
        key: Option<Key>,
        place: Place,
        anchor: usize,
        spent: usize,
    },
}

struct Key {
    text: String,
    place: Place,
    /// Whether it is the plain `<<`, which takes over the entries of other mappings.
    merges: bool,
}

struct Loader {
    frames: Vec<Frame>,
    /// Anchored values with what they weigh.
    anchors: HashMap<usize, (Node, usize)>,
    root: Option<Node>,
    budget: Budget,
    spent: usize,
}

/// Parses a text that holds one YAML document.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        emit_comments: false,
    };
    let mut loader = Loader {
        frames: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        budget: Budget::default(),
        spent: 0,
    };
    let mut documents = 0;
    for step in Parser::new_from_str_with_options(text, options) {
        let (event, span) = step.map_err(|error| {
            let message = match error.kind() {
                granit_parser::ErrorKind::RecursionLimitExceeded => {
                    format!("The document is nested more than {MAX_DEPTH} levels deep.")
                }
                kind => format!("This is not YAML: {kind}."),
            };
            SyntaxError::new(place_of(error.marker()), message)
        })?;
        let place = place_of(&span.start);
        match event {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    let message =
                        "A second document starts here; write one container group a file.";
                    return Err(SyntaxError::new(place, message));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                loader.scalar(text.into_owned(), style, tag.as_deref(), anchor, place)?
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "seq", place)?;
                loader.open(place)?;
                let spent = loader.spent;
                loader.frames.push(Frame::List {
                    items: Vec::new(),
                    place,
                    anchor,
                    spent,
                });
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "map", place)?;
                loader.open(place)?;
                let spent = loader.spent;
                loader.frames.push(Frame::Map {
                    entries: Vec::new(),
                    keys: HashMap::new(),
                    key: None,
                    place,
                    anchor,
                    spent,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => loader.close(place)?,
            Event::Alias(id) => loader.alias(id, place)?,
            _ => {}
        }
    }
    match loader.root {
        Some(node) if !node.is_null() => Ok(node),
        _ => Err(SyntaxError::new(
            Place { line: 1, column: 1 },
            "The document is empty.",
        )),
    }
}

fn place_of(marker: &Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place {
        line: number(marker.line().max(1)),
        column: number(marker.col()).saturating_add(1),
    }
}

impl Loader {
    fn spend(&mut self, length: usize, place: Place) -> Result<(), SyntaxError> {
        self.budget.spend(length, place)?;
        self.spent += length + NODE_WEIGHT;
        Ok(())
    }

    /// Pays for a collection that starts.
    fn open(&mut self, place: Place) -> Result<(), SyntaxError> {
        if let Some(Frame::Map { key: None, .. }) = self.frames.last() {
            return Err(SyntaxError::new(place, "A key must be a single value."));
        }
        self.spend(0, place)
    }

    fn scalar(
        &mut self,
        text: String,
        style: ScalarStyle,
        tag: Option<&Tag>,
        anchor: usize,
        place: Place,
    ) -> Result<(), SyntaxError> {
        let before = self.spent;
        self.spend(text.len(), place)?;
        let kind = kind_of(&text, style == ScalarStyle::Plain, tag, place)?;
        if let Some(Frame::Map {
            key: key @ None, ..
        }) = self.frames.last_mut()
        {
            let merges = text == "<<" && style == ScalarStyle::Plain;
            *key = Some(Key {
                text,
                place,
                merges,
            });
            return Ok(());
        }
        let node = Node {
            data: Data::Scalar(Scalar { kind, text }),
            place: Some(place),
        };
        self.complete(node, anchor, before)
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<(), SyntaxError> {
        let Some((node, weight)) = self.anchors.get(&id) else {
            return Err(SyntaxError::new(
                place,
                "This alias stands inside the value that it repeats.",
            ));
        };
        // Paid for before the copy is made.
        self.budget.spend(*weight, place)?;
        self.spent += weight + NODE_WEIGHT;
        let mut copy = node.clone();
        if let Some(Frame::Map {
            key: key @ None, ..
        }) = self.frames.last_mut()
        {
            let Data::Scalar(scalar) = copy.data else {
                return Err(SyntaxError::new(place, "A key must be a single value."));
            };
            *key = Some(Key {
                text: scalar.text,
                place,
                merges: false,
            });
            return Ok(());
        }
        copy.place = Some(place);
        let before = self.spent;
        self.complete(copy, 0, before)
    }

    fn close(&mut self, end: Place) -> Result<(), SyntaxError> {
        let (data, place, anchor, spent) = match self.frames.pop() {
            Some(Frame::List {
                items,
                place,
                anchor,
                spent,
            }) => (Data::List(items), place, anchor, spent),
            Some(Frame::Map {
                entries,
                place,
                anchor,
                spent,
                ..
            }) => (Data::Map(entries), place, anchor, spent),
            None => return Err(SyntaxError::new(end, "This closes nothing.")),
        };
        self.complete(
            Node {
                data,
                place: Some(place),
            },
            anchor,
            spent,
        )
    }

    /// Puts a value where it belongs.
    fn complete(&mut self, node: Node, anchor: usize, before: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            // The copy that later aliases are made from is paid for like an alias.
            let weight = self.spent - before;
            self.budget.spend(weight, node.place.unwrap_or_default())?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        match self.frames.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map {
                entries, keys, key, ..
            }) => {
                let Some(key) = key.take() else {
                    return Err(SyntaxError::new(
                        node.place.unwrap_or_default(),
                        "A key must be a single value.",
                    ));
                };
                if key.merges {
                    return self.merge(&node, key.place);
                }
                if let Some(first) = keys.insert(key.text.clone(), key.place) {
                    return Err(duplicate(&key.text, key.place, first));
                }
                // An own key wins over one that was merged before it.
                entries.retain(|e| e.key != key.text);
                entries.push(Entry {
                    key: key.text,
                    place: Some(key.place),
                    node,
                });
            }
        }
        Ok(())
    }

    /// Takes over the entries of a mapping, or of several, that are not given by themselves.
    fn merge(&mut self, node: &Node, place: Place) -> Result<(), SyntaxError> {
        let sources: Vec<&Node> = match &node.data {
            Data::Map(_) => vec![node],
            Data::List(items) if items.iter().all(|i| matches!(i.data, Data::Map(_))) => {
                items.iter().collect()
            }
            _ => {
                return Err(SyntaxError::new(
                    place,
                    "'<<' needs a mapping or a list of mappings.",
                ));
            }
        };
        if let Some(Frame::Map { entries, .. }) = self.frames.last_mut() {
            for entry in sources.into_iter().filter_map(Node::entries).flatten() {
                if !entries.iter().any(|e| e.key == entry.key) {
                    entries.push(entry.clone());
                }
            }
        }
        Ok(())
    }
}

/// What a scalar is: by its tag, else by its notation.
fn kind_of(
    text: &str,
    plain: bool,
    tag: Option<&Tag>,
    place: Place,
) -> Result<ScalarKind, SyntaxError> {
    let plain_kind = match text {
        "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
        "true" | "True" | "TRUE" => ScalarKind::Bool(true),
        "false" | "False" | "FALSE" => ScalarKind::Bool(false),
        _ if is_number(text) => ScalarKind::Number,
        _ => ScalarKind::Text,
    };
    let Some(tag) = tag else {
        return Ok(if plain { plain_kind } else { ScalarKind::Text });
    };
    let fits = match (core_tag(tag), plain_kind) {
        // The tag `!` alone, like quotes, says that a scalar is a text.
        (Some("str" | "!"), _) => return Ok(ScalarKind::Text),
        (Some("null"), ScalarKind::Null) | (Some("bool"), ScalarKind::Bool(_)) => true,
        (Some("int" | "float"), kind) => kind == ScalarKind::Number,
        _ => false,
    };
    if fits {
        Ok(plain_kind)
    } else {
        Err(bad_tag(tag, place))
    }
}

fn core_tag(tag: &Tag) -> Option<&str> {
    match (tag.handle(), tag.suffix()) {
        ("tag:yaml.org,2002:", suffix) => Some(suffix),
        ("", "!") | ("!", "") => Some("!"),
        _ => None,
    }
}

fn check_tag(tag: Option<&Tag>, wanted: &str, place: Place) -> Result<(), SyntaxError> {
    match tag {
        Some(tag) if !matches!(core_tag(tag), Some(t) if t == wanted || t == "!") => {
            Err(bad_tag(tag, place))
        }
        _ => Ok(()),
    }
}

fn bad_tag(tag: &Tag, place: Place) -> SyntaxError {
    let name = format!("{}{}", tag.handle(), tag.suffix());
    SyntaxError::new(
        place,
        format!(
            "The tag '{}' does not fit this value or is not supported.",
            shown_key(&name)
        ),
    )
}
