//! The headers by which an output says which span it comes from.

use crate::model::{HeadersBuf, limits};
use crate::plugin::{EncodedHeaders, HeadersField};
use crate::trace::{MAX_TRACE_STATE_BYTES, TRACE_PARENT, TRACE_STATE, TraceContext};

/// Headers of an output to which none of a trace is added: a queue may have to add when the message is due, and when it
/// expires.
const ENOUGH_HEADERS: usize = limits::MAX_HEADERS as usize - 2;

/// Writes the headers of an output into `target` with the span that it comes from. `source` has the headers of the
/// record that it derives from. Returns whether there is anything to change: a plugin that has set the header itself,
/// to something else than the source record has, is not corrected, and headers that do not fit are left out.
pub(super) fn write(
    own: HeadersField<'_>,
    source: EncodedHeaders<'_>,
    context: &TraceContext,
    target: &mut HeadersBuf,
) -> bool {
    let parent = context.to_header();
    let parent = Some(parent.as_slice());
    let came_from = source.value_of(TRACE_PARENT).flatten();
    let came_from = came_from.and_then(TraceContext::parse);
    // A `tracestate` belongs to its trace.
    let keeps_state = came_from.is_some_and(|it| it.trace_id() == context.trace_id());
    target.clear();
    let own_count = match own {
        HeadersField::AsSource => source.into_iter().count(),
        HeadersField::Encoded(own) => own.into_iter().count(),
    };
    let written = match own {
        HeadersField::AsSource => write_replacing(source, parent, keeps_state, target),
        HeadersField::Encoded(own) => match own.value_of(TRACE_PARENT) {
            None => {
                let state = source.value_of(TRACE_STATE).flatten();
                write_added(own, parent, state.filter(|_| keeps_state), target)
            }
            // A plugin that gives one output headers of its own has to copy those of the others.
            copied if copied == source.value_of(TRACE_PARENT) => {
                write_replacing(own, parent, keeps_state, target)
            }
            Some(_) => return false,
        },
    };
    let count = target.as_headers().len();
    written.is_some() && (count <= own_count || count <= ENOUGH_HEADERS)
}

/// These headers, with this `traceparent` in the place of theirs, and their `tracestate` if it is kept.
fn write_replacing(
    headers: EncodedHeaders<'_>,
    parent: Option<&[u8]>,
    keeps_state: bool,
    target: &mut HeadersBuf,
) -> Option<()> {
    let mut is_written = false;
    for (name, value) in headers {
        if name != TRACE_PARENT {
            if keeps_state || name != TRACE_STATE {
                target.push(name, value).ok()?;
            }
        } else if !std::mem::replace(&mut is_written, true) {
            target.push(TRACE_PARENT, parent).ok()?;
        }
    }
    if !is_written {
        target.push(TRACE_PARENT, parent).ok()?;
    }
    Some(())
}

/// The plugin's headers, and this `traceparent` with the `tracestate` that belongs to it.
fn write_added(
    own: EncodedHeaders<'_>,
    parent: Option<&[u8]>,
    state: Option<&[u8]>,
    target: &mut HeadersBuf,
) -> Option<()> {
    for (name, value) in own {
        target.push(name, value).ok()?;
    }
    target.push(TRACE_PARENT, parent).ok()?;
    let state = state.filter(|state| state.len() <= MAX_TRACE_STATE_BYTES);
    if state.is_some() && own.value_of(TRACE_STATE).is_none() {
        target.push(TRACE_STATE, state).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeadersRef, RecordRef};
    use crate::plugin::Columns;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OTHER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01";

    fn columns(pairs: Pairs<'_>) -> Columns {
        let mut headers = HeadersBuf::new();
        for (name, value) in pairs {
            headers.push(name, Some(value.as_bytes())).unwrap();
        }
        let mut columns = Columns::new();
        columns.push(&RecordRef {
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: headers.as_headers(),
        });
        columns
    }

    fn pairs_of(headers: HeadersRef<'_>) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pairs = headers.iter();
        pairs
            .map(|(name, value)| (name.to_owned(), text(value.unwrap())))
            .collect()
    }

    /// What is written for an output with these headers, or those of its source; `None` if nothing is to change.
    fn written(own: Option<Pairs<'_>>, source: Pairs<'_>) -> Option<Vec<(String, String)>> {
        let (own, source) = (own.map(columns), columns(source));
        let own = own.as_ref().map_or(HeadersField::AsSource, |own| {
            HeadersField::Encoded(own.headers(0))
        });
        let context = TraceContext::parse(PARENT.as_bytes()).unwrap();
        let mut target = HeadersBuf::new();
        target.push("left", Some(b"over")).unwrap();
        let is_written = write(own, source.headers(0), &context, &mut target);
        is_written.then(|| pairs_of(target.as_headers()))
    }

    fn expected(pairs: Pairs<'_>) -> Option<Vec<(String, String)>> {
        let pairs = pairs.iter();
        Some(
            pairs
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn what_is_taken_over_says_where_it_comes_from_now() {
        let source = [("a", "1"), ("traceparent", OTHER), ("tracestate", "v=1")];
        let now = [("a", "1"), ("traceparent", PARENT), ("tracestate", "v=1")];
        assert_eq!(written(None, &source), expected(&now));
        assert_eq!(written(None, &[]), expected(&[("traceparent", PARENT)]));
    }

    #[test]
    fn what_a_plugin_sets_stays_and_what_it_does_not_is_added() {
        let source = [("traceparent", OTHER), ("tracestate", "v=1")];
        assert_eq!(written(Some(&[("traceparent", "mine")]), &source), None);
        let copied = [("traceparent", OTHER), ("b", "2")];
        let now = [("traceparent", PARENT), ("b", "2")];
        assert_eq!(written(Some(&copied), &source), expected(&now));
        let added = [("b", "2"), ("traceparent", PARENT), ("tracestate", "v=1")];
        assert_eq!(written(Some(&[("b", "2")]), &source), expected(&added));
        let own_state = [("tracestate", "w=2"), ("traceparent", PARENT)];
        let of_plugin = [("tracestate", "w=2")];
        assert_eq!(written(Some(&of_plugin), &source), expected(&own_state));
    }

    #[test]
    fn a_state_does_not_go_over_to_another_trace() {
        let of_another = OTHER.replacen("4bf9", "0000", 1);
        let source = [("traceparent", of_another.as_str()), ("tracestate", "v=1")];
        assert_eq!(written(None, &source), expected(&[("traceparent", PARENT)]));
        let now = [("b", "2"), ("traceparent", PARENT)];
        assert_eq!(written(Some(&[("b", "2")]), &source), expected(&now));
    }

    #[test]
    fn headers_that_do_not_fit_are_left_out() {
        for too_many in [limits::MAX_HEADERS as usize, ENOUGH_HEADERS] {
            let many = vec![("x", ""); too_many];
            assert_eq!(written(None, &many), None);
            assert_eq!(written(Some(&many), &[]), None);
        }
        let mut many = vec![("x", ""); ENOUGH_HEADERS - 1];
        assert!(written(None, &many).is_some());
        // One that is there already takes no more room.
        many.extend([("traceparent", OTHER), ("x", "")]);
        assert!(written(None, &many).is_some());
    }
}
