//! What an output does not take over from the message of a queue that it derives from.
//!
//! A deduplication id and times are of the queue that the message was in. Another queue that got them would drop what is
//! made of two messages, or twice of one, and its own delay and time to live would not count.

use crate::model::{HeadersBuf, HeadersRef, batch};
use crate::plugin::{EncodedHeaders, HeadersField};
use crate::queue;

/// How many headers of an output stay behind in the queue of its source. They are taken over if the output's headers are
/// the source's, or begin with all of these: that is how a plugin adds some, and how it has to write down the headers of
/// those outputs to which it adds none, if it adds some to another. What comes behind them it has set itself.
pub(super) fn count(own: HeadersField<'_>, source: EncodedHeaders<'_>) -> usize {
    let is_taken_over = match own {
        HeadersField::AsSource => true,
        HeadersField::Encoded(own) => own.begin_with(source),
    };
    let mut names = source.map(|(name, _)| name);
    match is_taken_over {
        true => names.by_ref().filter(|name| queue::stays(name)).count(),
        false => 0,
    }
}

/// Writes headers into `target` without the first so many of those that stay behind.
///
/// # Errors
/// More or larger headers than a record takes.
pub(super) fn write_without(
    headers: HeadersRef<'_>,
    mut count: usize,
    target: &mut HeadersBuf,
) -> Result<(), batch::Error> {
    target.clear();
    for (name, value) in headers {
        if count > 0 && queue::stays(name) {
            count -= 1;
        } else {
            target.push(name, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RecordRef;
    use crate::plugin::Columns;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    const SOURCE: Pairs<'_> = &[
        ("a", "1"),
        (queue::DEDUPLICATION_ID, "id"),
        (queue::PRIORITY, "7"),
        (queue::EXPIRES_AT, "99"),
        (queue::GROUP, "g"),
    ];

    fn headers_of(pairs: Pairs<'_>) -> HeadersBuf {
        let mut headers = HeadersBuf::new();
        for (name, value) in pairs {
            headers.push(name, Some(value.as_bytes())).unwrap();
        }
        headers
    }

    fn columns(headers: &HeadersBuf) -> Columns {
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

    /// The headers that an output is stored with which has these, or those of [`SOURCE`].
    fn stored(own: Option<Pairs<'_>>) -> Vec<(String, String)> {
        let source = headers_of(SOURCE);
        let own_headers = own.map_or_else(|| headers_of(SOURCE), headers_of);
        let (source, own_columns) = (columns(&source), columns(&own_headers));
        let field = match own {
            None => HeadersField::AsSource,
            Some(_) => HeadersField::Encoded(own_columns.headers(0)),
        };
        let mut target = headers_of(&[("left", "over")]);
        let count = count(field, source.headers(0));
        write_without(own_headers.as_headers(), count, &mut target).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pairs = target.as_headers().iter();
        pairs
            .map(|(name, value)| (name.to_owned(), text(value.unwrap())))
            .collect()
    }

    fn owned(pairs: Pairs<'_>) -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn an_id_and_times_stay_behind_and_the_rest_is_taken_over() {
        let kept = owned(&[("a", "1"), (queue::PRIORITY, "7"), (queue::GROUP, "g")]);
        assert_eq!(stored(None), kept);
        // As the SDK writes them down when another output of the batch has headers of its own.
        assert_eq!(stored(Some(SOURCE)), kept);
    }

    #[test]
    fn what_a_plugin_sets_itself_counts() {
        let added = [(queue::DEDUPLICATION_ID, "id"), (queue::DELAY, "5")];
        let own = [SOURCE, &added].concat();
        let kept = [
            ("a", "1"),
            (queue::PRIORITY, "7"),
            (queue::GROUP, "g"),
            added[0],
            added[1],
        ];
        assert_eq!(stored(Some(&own)), owned(&kept));
        assert_eq!(stored(Some(&added)), owned(&added));
        let reordered: Vec<_> = SOURCE.iter().rev().copied().collect();
        assert_eq!(stored(Some(&reordered)), owned(&reordered));
        assert_eq!(stored(Some(&[])), owned(&[]));
    }
}
