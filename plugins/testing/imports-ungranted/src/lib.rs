//! Imports an interface that no manifest grants (raw TCP sockets), and would send records on.

#[cfg(target_arch = "wasm32")]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package testing:ungranted;
            world ungranted {
                import wasi:sockets/instance-network@0.2.0;
            }
        ",
        path: "wit",
        generate_all,
    });
}

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(type Networked);

struct Networked;

impl Consumer for Networked {
    fn open(_: &Config) -> Result<Self, Failure> {
        #[cfg(target_arch = "wasm32")]
        drop(bindings::wasi::sockets::instance_network::instance_network());
        Ok(Self)
    }

    fn process(
        &mut self,
        record: Record<'_>,
        out: &mut Outputs,
        _: &mut State,
    ) -> Result<(), Failure> {
        out.forward(record);
        Ok(())
    }
}
