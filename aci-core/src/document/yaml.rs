//! Reads YAML into a tree with places.
//!
//! Scalars keep the text that people wrote, so that `0755`, `on` and `2019-12-01` stay what they
//! are where the model wants a string. What a plain scalar is by itself follows YAML 1.2's core
//! schema, narrowed to JSON's numbers. This module is the only one that knows the parser.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::json::{SyntaxError, duplicate, is_number};
use super::limits::{Budget, MAX_DEPTH, NODE_WEIGHT};
use super::tree::{Data, Entry, Node, Place, Scalar, ScalarKind};

/// A collection that is being read.
struct Frame {
    open: Open,
    place: Place,
    anchor: usize,
    /// What had been spent before it.
    spent: usize,
    /// How deep what is in it is nested.
    height: usize,
}

enum Open {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        keys: HashMap<String, Slot>,
        key: Option<Key>,
    },
}

/// Where a key's entry is among the entries of its mapping.
struct Slot {
    index: usize,
    place: Place,
    /// Whether it came by `<<`; an own key replaces it.
    merged: bool,
}

struct Key {
    text: String,
    place: Place,
    /// Whether it is the plain `<<`, which takes over the entries of other mappings.
    merges: bool,
}

/// A value that aliases repeat.
struct Anchored {
    node: Node,
    weight: usize,
    height: usize,
}

struct Loader {
    frames: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
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
                    return too_deep(place_of(error.marker()));
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
                loader.open(Open::List(Vec::new()), anchor, place)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "map", place)?;
                let map = Open::Map {
                    entries: Vec::new(),
                    keys: HashMap::new(),
                    key: None,
                };
                loader.open(map, anchor, place)?;
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

    /// Whether the next value is a key.
    fn at_key(&self) -> bool {
        matches!(
            self.frames.last(),
            Some(Frame {
                open: Open::Map { key: None, .. },
                ..
            })
        )
    }

    fn set_key(&mut self, text: String, merges: bool, place: Place) {
        if let Some(Frame {
            open: Open::Map { key, .. },
            ..
        }) = self.frames.last_mut()
        {
            *key = Some(Key {
                text,
                place,
                merges,
            });
        }
    }

    /// Starts a collection.
    fn open(&mut self, open: Open, anchor: usize, place: Place) -> Result<(), SyntaxError> {
        if self.at_key() {
            return Err(SyntaxError::new(place, KEY_IS_ONE_VALUE));
        }
        let spent = self.spent;
        self.spend(0, place)?;
        self.frames.push(Frame {
            open,
            place,
            anchor,
            spent,
            height: 0,
        });
        Ok(())
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
        let plain = style == ScalarStyle::Plain;
        let kind = kind_of(&text, plain, tag, place)?;
        let at_key = self.at_key();
        let node = Node {
            data: Data::Scalar(Scalar { kind, text }),
            place: Some(place),
        };
        if anchor != 0 {
            self.keep(anchor, &node, self.spent - before, 0)?;
        }
        if at_key {
            if let Data::Scalar(Scalar { text, .. }) = node.data {
                let merges = text == "<<" && plain;
                self.set_key(text, merges, place);
            }
            return Ok(());
        }
        self.complete(node, 0)
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<(), SyntaxError> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(SyntaxError::new(
                place,
                "This alias stands inside the value that it repeats.",
            ));
        };
        if self.frames.len() + anchored.height > MAX_DEPTH {
            return Err(too_deep(place));
        }
        // Paid for before the copy is made.
        self.budget.spend(anchored.weight, place)?;
        self.spent += anchored.weight + NODE_WEIGHT;
        let height = anchored.height;
        let mut copy = anchored.node.clone();
        if self.at_key() {
            let Data::Scalar(scalar) = copy.data else {
                return Err(SyntaxError::new(place, KEY_IS_ONE_VALUE));
            };
            self.set_key(scalar.text, false, place);
            return Ok(());
        }
        copy.place = Some(place);
        self.complete(copy, height)
    }

    fn close(&mut self, end: Place) -> Result<(), SyntaxError> {
        let Some(frame) = self.frames.pop() else {
            return Err(SyntaxError::new(end, "This closes nothing."));
        };
        let data = match frame.open {
            Open::List(items) => Data::List(items),
            Open::Map { entries, .. } => Data::Map(entries),
        };
        let node = Node {
            data,
            place: Some(frame.place),
        };
        let height = frame.height + 1;
        if frame.anchor != 0 {
            self.keep(frame.anchor, &node, self.spent - frame.spent, height)?;
        }
        self.complete(node, height)
    }

    /// Keeps a value for its aliases; the copy is paid for like an alias.
    fn keep(
        &mut self,
        anchor: usize,
        node: &Node,
        weight: usize,
        height: usize,
    ) -> Result<(), SyntaxError> {
        self.budget.spend(weight, node.place.unwrap_or_default())?;
        self.anchors.insert(
            anchor,
            Anchored {
                node: node.clone(),
                weight,
                height,
            },
        );
        Ok(())
    }

    /// Puts a value where it belongs.
    fn complete(&mut self, node: Node, height: usize) -> Result<(), SyntaxError> {
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        frame.height = frame.height.max(height);
        match &mut frame.open {
            Open::List(items) => items.push(node),
            Open::Map { entries, keys, key } => {
                let Some(key) = key.take() else {
                    return Err(SyntaxError::new(
                        node.place.unwrap_or_default(),
                        KEY_IS_ONE_VALUE,
                    ));
                };
                if key.merges {
                    return merge(entries, keys, node, key.place);
                }
                let entry = Entry {
                    key: key.text.clone(),
                    place: Some(key.place),
                    node,
                };
                match keys.get_mut(&key.text) {
                    Some(slot) if !slot.merged => {
                        return Err(duplicate(&key.text, key.place, slot.place));
                    }
                    Some(slot) => {
                        entries[slot.index] = entry;
                        *slot = Slot {
                            index: slot.index,
                            place: key.place,
                            merged: false,
                        };
                    }
                    None => {
                        keys.insert(
                            key.text,
                            Slot {
                                index: entries.len(),
                                place: key.place,
                                merged: false,
                            },
                        );
                        entries.push(entry);
                    }
                }
            }
        }
        Ok(())
    }
}

const KEY_IS_ONE_VALUE: &str = "A key must be a single value.";

fn too_deep(place: Place) -> SyntaxError {
    SyntaxError::new(
        place,
        format!("The document is nested more than {MAX_DEPTH} levels deep."),
    )
}

/// Takes over the entries of a mapping, or of several, whose keys are not there yet.
fn merge(
    entries: &mut Vec<Entry>,
    keys: &mut HashMap<String, Slot>,
    node: Node,
    place: Place,
) -> Result<(), SyntaxError> {
    let sources = match node.data {
        Data::List(items) => items,
        data => vec![Node {
            data,
            place: node.place,
        }],
    };
    for source in sources {
        let Data::Map(taken) = source.data else {
            return Err(SyntaxError::new(
                place,
                "'<<' needs a mapping or a list of mappings.",
            ));
        };
        for entry in taken {
            if !keys.contains_key(&entry.key) {
                keys.insert(
                    entry.key.clone(),
                    Slot {
                        index: entries.len(),
                        place,
                        merged: true,
                    },
                );
                entries.push(entry);
            }
        }
    }
    Ok(())
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
        Err(bad_tag(place))
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
            Err(bad_tag(place))
        }
        _ => Ok(()),
    }
}

/// The error for a tag; its name stays out, because it may be a password that is not in quotes.
fn bad_tag(place: Place) -> SyntaxError {
    SyntaxError::new(
        place,
        "A word that starts with '!' is a tag in YAML, and this one does not fit or is not known; \
         put a text that starts with '!' in quotes.",
    )
}
