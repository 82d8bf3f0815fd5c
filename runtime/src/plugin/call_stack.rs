//! Where a guest trapped.

use std::sync::Arc;

use wasmtime::WasmBacktrace;

/// A guest's call stack when it trapped. It becomes text when it is asked for: most traps are one of many on
/// the way to the record that causes them, and nobody sees their call stacks.
#[derive(Clone, Default)]
pub struct CallStack {
    error: Option<Arc<wasmtime::Error>>,
}

impl CallStack {
    pub(super) fn of(error: wasmtime::Error) -> Self {
        let is_there = error.downcast_ref::<WasmBacktrace>().is_some();
        Self {
            error: is_there.then(|| Arc::new(error)),
        }
    }

    /// The functions, innermost first, one a line, with demangled names, and places in the source where there
    /// is debug information. None if it is not known.
    pub fn text(&self) -> Option<String> {
        let text = self.error.as_ref()?.downcast_ref::<WasmBacktrace>()?;
        let text = text.to_string();
        // The first line only says what it is.
        let lines: Vec<_> = text.lines().skip(1).map(str::trim).collect();
        let lines = lines.join("\n");
        (!lines.is_empty()).then_some(lines)
    }
}

impl std::fmt::Debug for CallStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CallStack").field(&self.text()).finish()
    }
}
