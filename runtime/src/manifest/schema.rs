//! Which keys a manifest has: the one list that unknown keys are checked against, that suggestions
//! come from, and that the reference in `docs/manifest-reference.md` is tested to cover.

/// The keys of one kind of table.
#[derive(Debug)]
pub(super) struct TableSchema {
    /// Every key the table may have.
    pub(super) keys: &'static [&'static str],
    /// Keys that belong to retries and dead letters. They are refused like any unknown key,
    /// but with a reason, because an author may have met them elsewhere.
    pub(super) unsupported: &'static [&'static str],
}

/// The file itself.
pub(super) static MANIFEST: TableSchema = TableSchema {
    keys: &["name", "topics", "queues", "plugins", "pipelines"],
    unsupported: &[],
};

/// One topic.
pub(super) static TOPIC: TableSchema = TableSchema {
    keys: &[
        "partitions",
        "retention",
        "retention-bytes",
        "cleanup",
        "compression",
        "tombstone-delay",
        "min-cleanable-dirty-ratio",
        "max-batch-bytes",
    ],
    unsupported: &[],
};

/// One queue.
pub(super) static QUEUE: TableSchema = TableSchema {
    keys: &[
        "visibility-timeout",
        "max-deliveries",
        "dead-letter",
        "delay",
        "deduplication-window",
        "time-to-live",
        "max-length",
        "max-length-policy",
        "groups",
        "default-priority",
    ],
    unsupported: &[],
};

/// One plugin.
pub(super) static PLUGIN: TableSchema = TableSchema {
    keys: &["path"],
    unsupported: &[],
};

/// One pipeline.
pub(super) static PIPELINE: TableSchema = TableSchema {
    keys: &[
        "from",
        "group",
        "start",
        "plugin",
        "to",
        "delivery",
        "concurrency",
        "batch",
        "retry",
        "dead-letter",
        "limits",
        "config",
        "allow",
    ],
    unsupported: &[],
};

/// A pipeline's `retry`.
pub(super) static RETRY: TableSchema = TableSchema {
    keys: &[
        "max-attempts",
        "initial",
        "multiplier",
        "max",
        "jitter",
        "order",
    ],
    unsupported: &[],
};

/// A pipeline's `batch`.
pub(super) static BATCH: TableSchema = TableSchema {
    keys: &["max-records", "max-bytes", "max-wait"],
    unsupported: &[],
};

/// A pipeline's `limits`.
pub(super) static LIMITS: TableSchema = TableSchema {
    keys: &["memory", "deadline", "output"],
    unsupported: &[],
};

/// A pipeline's `allow`.
pub(super) static ALLOW: TableSchema = TableSchema {
    keys: &["clocks", "random", "http"],
    unsupported: &[],
};

/// Every table of the schema, as the reference calls it; `NAME` stands for a name the author chooses.
#[cfg(test)]
pub(super) static TABLES: [(&str, &TableSchema); 9] = [
    ("The manifest", &MANIFEST),
    ("`[topics.NAME]`", &TOPIC),
    ("`[queues.NAME]`", &QUEUE),
    ("`[plugins.NAME]`", &PLUGIN),
    ("`[pipelines.NAME]`", &PIPELINE),
    ("`batch`", &BATCH),
    ("`retry`", &RETRY),
    ("`limits`", &LIMITS),
    ("`allow`", &ALLOW),
];
