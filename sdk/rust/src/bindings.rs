//! Bindings to `wit/plugin.wit`, generated when the crate is compiled.
//!
//! One module for each exported interface, so that a plugin exports exactly what it has: its
//! component type is put together from the worlds whose `export_*` macro it uses. Plugins that
//! work on columns meet the types as [`crate::columns`]; nothing else here is for use outside the
//! SDK's macros.
#![allow(missing_docs, reason = "generated code")]

/// The imports, the types, and the export `consumer`.
pub mod consumer {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package millstream:sdk-consumer;
            world sdk-consumer {
                import millstream:plugin/state@0.1.0;
                import millstream:plugin/timers@0.1.0;
                import millstream:plugin/context@0.1.0;
                import millstream:plugin/metrics@0.1.0;
                import wasi:logging/logging@0.1.0-draft;
                export millstream:plugin/consumer@0.1.0;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_consumer",
        default_bindings_module: "millstream_sdk::bindings::consumer",
        generate_all,
    });
}

/// The import `wasi:http/outgoing-handler`. A world of its own: a component imports it if its code
/// calls it, and not else.
#[cfg(target_arch = "wasm32")]
pub mod http {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package millstream:sdk-http;
            world sdk-http {
                import wasi:http/outgoing-handler@0.2.12;
            }
        ",
        generate_all,
    });
}

/// The export `producer`.
pub mod producer {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package millstream:sdk-producer;
            world sdk-producer {
                export millstream:plugin/producer@0.1.0;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_producer",
        default_bindings_module: "millstream_sdk::bindings::producer",
        with: {
            "millstream:plugin/types@0.1.0": crate::bindings::consumer::millstream::plugin::types,
            "millstream:plugin/producer@0.1.0": generate,
        },
    });
}

/// The export `timer-handler`.
pub mod timer_handler {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package millstream:sdk-timer-handler;
            world sdk-timer-handler {
                export millstream:plugin/timer-handler@0.1.0;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_timer_handler",
        default_bindings_module: "millstream_sdk::bindings::timer_handler",
        with: {
            "millstream:plugin/types@0.1.0": crate::bindings::consumer::millstream::plugin::types,
            "millstream:plugin/timer-handler@0.1.0": generate,
        },
    });
}

/// The export `lifecycle`.
pub mod lifecycle {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package millstream:sdk-lifecycle;
            world sdk-lifecycle {
                export millstream:plugin/lifecycle@0.1.0;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_lifecycle",
        default_bindings_module: "millstream_sdk::bindings::lifecycle",
        generate_all,
    });
}
