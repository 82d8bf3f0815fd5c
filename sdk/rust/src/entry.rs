//! The macros that export a plugin from its crate.

/// Exports a consumer: a function, or a type that implements [`Consumer`](crate::Consumer).
///
/// ```
/// use millstream_sdk::prelude::*;
///
/// millstream_sdk::consumer!(process);
///
/// fn process(record: Record<'_>, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
///     let key = record.key().or_reject("the record has no key")?;
///     out.emit(state.add(key, 1).to_string());
///     Ok(())
/// }
/// ```
///
/// With a type: `millstream_sdk::consumer!(type CarrierDelays);`
///
/// With timers, a second function is called when one is due:
///
/// ```
/// use millstream_sdk::prelude::*;
///
/// millstream_sdk::consumer!(process, on_timer);
///
/// fn process(record: Record<'_>, _: &mut Outputs, state: &mut State) -> Result<(), Failure> {
///     let key = record.key().or_reject("the record has no key")?;
///     state.timers().set(key, record.timestamp_ms() + 60_000, record.value());
///     Ok(())
/// }
///
/// fn on_timer(timer: Timer<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
///     out.emit(timer.payload());
///     Ok(())
/// }
/// ```
///
/// and a type implements [`TimerHandler`](crate::TimerHandler):
/// `millstream_sdk::consumer!(type Sessions, timers);`
#[macro_export]
macro_rules! consumer {
    (type $plugin:ty) => {
        $crate::__export!(consumer, $crate::plugin::ConsumerDriver<$plugin>);
    };
    (type $plugin:ty, timers) => {
        $crate::__export!(timer_consumer, $crate::plugin::ConsumerDriver<$plugin>);
    };
    ($process:path, $on_timer:path) => {
        const _: () = {
            // Outside a component nothing calls them, and they are in use all the same.
            let _ = ($process, $on_timer);
            struct MillstreamFunction;
            impl $crate::Consumer for MillstreamFunction {
                fn open(_: &$crate::Config) -> ::core::result::Result<Self, $crate::Failure> {
                    ::core::result::Result::Ok(Self)
                }
                #[inline]
                fn process(
                    &mut self,
                    record: $crate::Record<'_>,
                    out: &mut $crate::Outputs,
                    state: &mut $crate::State,
                ) -> ::core::result::Result<(), $crate::Failure> {
                    $process(record, out, state)
                }
            }
            impl $crate::TimerHandler for MillstreamFunction {
                #[inline]
                fn on_timer(
                    &mut self,
                    timer: $crate::Timer<'_>,
                    out: &mut $crate::Outputs,
                    state: &mut $crate::State,
                ) -> ::core::result::Result<(), $crate::Failure> {
                    $on_timer(timer, out, state)
                }
            }
    $crate::consumer!(type MillstreamFunction, timers);
        };
    };
    ($process:path) => {
        const _: () = {
            // Outside a component nothing calls it, and it is in use all the same.
            let _ = $process;
            struct MillstreamFunction;
            impl $crate::Consumer for MillstreamFunction {
                fn open(_: &$crate::Config) -> ::core::result::Result<Self, $crate::Failure> {
                    ::core::result::Result::Ok(Self)
                }
                #[inline]
                fn process(
                    &mut self,
                    record: $crate::Record<'_>,
                    out: &mut $crate::Outputs,
                    state: &mut $crate::State,
                ) -> ::core::result::Result<(), $crate::Failure> {
                    $process(record, out, state)
                }
            }
    $crate::consumer!(type MillstreamFunction);
        };
    };
}

/// Exports a consumer of whole batches: a function from [`Batch`](crate::columns::Batch) to
/// [`Output`](crate::columns::Output), or a type that implements
/// [`BatchConsumer`](crate::BatchConsumer).
///
/// ```
/// use millstream_sdk::prelude::*;
/// use millstream_sdk::columns::{Batch, Output};
///
/// millstream_sdk::batch_consumer!(process);
///
/// fn process(batch: Batch) -> Result<Output, Failure> {
///     Ok(Output::forward_all(&batch))
/// }
/// ```
#[macro_export]
macro_rules! batch_consumer {
    (type $plugin:ty) => {
        $crate::__export!(consumer, $crate::plugin::BatchDriver<$plugin>);
    };
    ($process:path) => {
        const _: () = {
            // Outside a component nothing calls it, and it is in use all the same.
            let _ = $process;
            struct MillstreamFunction;
            impl $crate::BatchConsumer for MillstreamFunction {
                fn open(_: &$crate::Config) -> ::core::result::Result<Self, $crate::Failure> {
                    ::core::result::Result::Ok(Self)
                }
                #[inline]
                fn process(
                    &mut self,
                    batch: $crate::columns::Batch,
                    _: &mut $crate::State,
                ) -> ::core::result::Result<$crate::columns::Output, $crate::Failure> {
                    $process(batch)
                }
            }
    $crate::batch_consumer!(type MillstreamFunction);
        };
    };
}

/// Exports a producer: a function, or a type that implements [`Producer`](crate::Producer).
///
/// ```
/// use millstream_sdk::prelude::*;
///
/// millstream_sdk::producer!(produce);
///
/// fn produce(max_records: u32, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
///     let number = state.add("made", 1);
///     out.emit(number.to_string());
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! producer {
    (type $plugin:ty) => {
        $crate::__export!(producer, $crate::plugin::ProducerDriver<$plugin>);
    };
    ($produce:path) => {
        const _: () = {
            // Outside a component nothing calls it, and it is in use all the same.
            let _ = $produce;
            struct MillstreamFunction;
            impl $crate::Producer for MillstreamFunction {
                fn open(_: &$crate::Config) -> ::core::result::Result<Self, $crate::Failure> {
                    ::core::result::Result::Ok(Self)
                }
                #[inline]
                fn produce(
                    &mut self,
                    max_records: u32,
                    out: &mut $crate::Outputs,
                    state: &mut $crate::State,
                ) -> ::core::result::Result<(), $crate::Failure> {
                    $produce(max_records, out, state)
                }
            }
    $crate::producer!(type MillstreamFunction);
        };
    };
}

/// The component's exports: one instance of a driver behind `lifecycle` and one of the others.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($kind:ident, $driver:ty) => {
        const _: () = {
            $crate::__instance!($driver);
            struct MillstreamComponent;
            impl $crate::bindings::lifecycle::exports::millstream::plugin::lifecycle::Guest
                for MillstreamComponent
            {
                fn open(
                    config: ::std::vec::Vec<(::std::string::String, ::std::string::String)>,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    open(config)
                }
            }
            $crate::__guest!($kind);
            // Outside a component nothing calls the exports, and they are in use all the same.
            const _: fn(
                ::std::vec::Vec<(::std::string::String, ::std::string::String)>,
            ) -> ::core::result::Result<(), ::std::string::String> = open;
            #[cfg(target_arch = "wasm32")]
            $crate::__link!($kind);
        };
    };
}

/// The instance and how it comes into being.
#[doc(hidden)]
#[macro_export]
macro_rules! __instance {
    ($driver:ty) => {
        ::std::thread_local! {
            static INSTANCE: ::std::cell::RefCell<::core::option::Option<$driver>> =
                const { ::std::cell::RefCell::new(::core::option::Option::None) };
        }

        fn open(
            config: ::std::vec::Vec<(::std::string::String, ::std::string::String)>,
        ) -> ::core::result::Result<(), ::std::string::String> {
            $crate::__private::report_panics();
            let driver = <$driver>::open(&$crate::Config::new(config))?;
            INSTANCE.set(::core::option::Option::Some(driver));
            ::core::result::Result::Ok(())
        }

        fn call<R>(
            run: impl ::core::ops::FnOnce(
                &mut $driver,
            ) -> ::core::result::Result<R, ::std::string::String>,
        ) -> ::core::result::Result<R, ::std::string::String> {
            INSTANCE.with_borrow_mut(|instance| match instance {
                ::core::option::Option::Some(driver) => run(driver),
                ::core::option::Option::None => {
                    ::core::result::Result::Err($crate::__private::NOT_OPEN.into())
                }
            })
        }
    };
}

/// The export that does the work.
#[doc(hidden)]
#[macro_export]
macro_rules! __guest {
    (consumer) => {
        impl $crate::bindings::consumer::exports::millstream::plugin::consumer::Guest
            for MillstreamComponent
        {
            fn process(
                batch: $crate::columns::Batch,
            ) -> ::core::result::Result<$crate::columns::Output, ::std::string::String> {
                call(|driver| driver.process(batch))
            }
        }
    };
    (timer_consumer) => {
        $crate::__guest!(consumer);
        impl $crate::bindings::timer_handler::exports::millstream::plugin::timer_handler::Guest
            for MillstreamComponent
        {
            fn on_timers(
                batch: $crate::columns::TimerBatch,
            ) -> ::core::result::Result<$crate::columns::Output, ::std::string::String> {
                call(|driver| driver.on_timers(batch))
            }
        }
    };
    (producer) => {
        impl $crate::bindings::producer::exports::millstream::plugin::producer::Guest
            for MillstreamComponent
        {
            fn produce(
                max_records: u32,
            ) -> ::core::result::Result<$crate::columns::Output, ::std::string::String> {
                call(|driver| driver.produce(max_records))
            }
        }
    };
}

/// Links the exports into the component.
#[doc(hidden)]
#[macro_export]
macro_rules! __link {
    (consumer) => {
        $crate::bindings::lifecycle::export_lifecycle!(
            MillstreamComponent with_types_in $crate::bindings::lifecycle
        );
        $crate::bindings::consumer::export_consumer!(
            MillstreamComponent with_types_in $crate::bindings::consumer
        );
    };
    (timer_consumer) => {
        $crate::__link!(consumer);
        $crate::bindings::timer_handler::export_timer_handler!(
            MillstreamComponent with_types_in $crate::bindings::timer_handler
        );
    };
    (producer) => {
        $crate::bindings::lifecycle::export_lifecycle!(
            MillstreamComponent with_types_in $crate::bindings::lifecycle
        );
        $crate::bindings::producer::export_producer!(
            MillstreamComponent with_types_in $crate::bindings::producer
        );
    };
}
