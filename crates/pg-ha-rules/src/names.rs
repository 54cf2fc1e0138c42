//! Names, positions, timelines and terms.
