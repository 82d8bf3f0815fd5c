//! Tests of the log: topics, appends and reads against a model, retention, the cleaner, producers.

mod cleaner;
mod cleaner_model;
mod cursor;
mod model;
mod producer;
mod retention;
mod support;
mod topics;
