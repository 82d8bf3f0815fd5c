//! The modules under test, included by path so that the runtime crate's heavy dependencies stay
//! out. Modules refer to each other as `crate::<module>`, so they are included at the root.

#[path = "../../runtime/src/model/mod.rs"]
pub mod model;

pub mod plugin;
