//! The files as they were read, and places in them.

use std::sync::Arc;

/// One file of the configuration: its name as shown (relative to the folder) and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// A stretch of one file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    pub at: Place,
    pub value: T,
}

impl<T> At<T> {
    pub fn new(at: Place, value: T) -> Self {
        Self { at, value }
    }
}

/// A place as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The whole line.
    pub excerpt: String,
    /// How many characters of it are meant; at least 1.
    pub width: usize,
}

/// Every file of one configuration.
#[derive(Debug, Clone, Default)]
pub struct Sources(Arc<Vec<Source>>);

impl Sources {
    pub fn new(files: Vec<Source>) -> Self {
        Self(Arc::new(files))
    }

    pub fn files(&self) -> &[Source] {
        &self.0
    }

    pub fn spot(&self, place: Place) -> Option<Spot> {
        let source = self.0.get(place.file)?;
        let start = floor(&source.text, place.start);
        let end = floor(&source.text, place.end.max(start));
        let before = source.text.get(..start)?;
        let from = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = source.text.get(from..)?;
        let excerpt = rest.lines().next().unwrap_or("");
        let column = source.text.get(from..start)?.chars().count();
        let meant = source.text.get(start..end)?;
        let width = meant.lines().next().unwrap_or("").chars().count();
        Some(Spot {
            file: source.name.clone(),
            line: before.matches('\n').count() + 1,
            column: column + 1,
            excerpt: excerpt.to_owned(),
            width: width.max(1),
        })
    }
}

/// The nearest character boundary at or before `place`.
fn floor(text: &str, place: usize) -> usize {
    let mut place = place.min(text.len());
    while !text.is_char_boundary(place) {
        place -= 1;
    }
    place
}
