"""What schemathesis must know of the API beyond its OpenAPI document. `cargo xtask test` runs it.

Names that it makes up lead to nothing, so every other request is sent to something that is there: see EXISTING, which
`xtask/src/schema_test.rs` creates.
"""

import itertools
import json
import tempfile

import schemathesis

EXISTING = {"topic": "orders", "queue": "work"}
# Consumers may wait for a minute, and a test has no time for that.
LONGEST_WAIT_MS = 20

# Where backups go, whatever folder was made up.
backups = tempfile.TemporaryDirectory()

count = itertools.count()


def as_it_is(context, value):
    # Schemathesis hands over bytes in a wrapper of its own that looks like a text.
    data = getattr(value, "data", value)
    return {"data": data if isinstance(data, bytes) else str(data).encode("utf-8", "replace")}


schemathesis.serializer("application/toml", "application/wasm")(as_it_is)


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """Records with the text as value, or the text as it is."""
    if next(count) % 2 == 0 and isinstance(value, str):
        value = json.dumps({"value": value})
    return as_it_is(context, value)


@schemathesis.hook
def before_call(context, case, kwargs):
    for parameters in (case.query, case.body):
        if isinstance(parameters, dict) and isinstance(parameters.get("wait_ms"), int):
            parameters["wait_ms"] = min(parameters["wait_ms"], LONGEST_WAIT_MS)
    folder = case.body.get("folder") if isinstance(case.body, dict) else None
    if isinstance(folder, str) and folder.startswith("/"):
        case.body["folder"] = f"{backups.name}/{next(count)}"
    if case.method != "DELETE" and next(count) % 2 == 0:
        for name in EXISTING.keys() & (case.path_parameters or {}).keys():
            case.path_parameters[name] = EXISTING[name]
