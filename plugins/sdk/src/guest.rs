//! What the attribute macros expand to: the traits behind a world, and the loops over the
//! records of a call. Not for direct use; it changes with the macros.
use std::{cell::Cell, fmt::Display, ops::BitOr};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    Output, Record,
    bindings::{
        filter::exports::flumen::plugin::filtering::Verdicts,
        host,
        transform::exports::flumen::plugin::transforming::{Misplaced, Routes, Transformed},
        types::{Failure, Records},
    },
    columns::{Reader, Writer},
    metrics,
};
pub use crate::{export_filter, export_transform};

/// The configuration of a plugin whose function takes none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// A filter, as its macro implements it.
pub trait Filter {
    /// What the binding's configuration is read into.
    type Config: DeserializeOwned;

    /// Whether to keep a record; an error is a failure of this record.
    fn keep(record: &Record<'_>, config: &Self::Config) -> Result<bool, String>;
}

/// A transform, as its macro implements it.
pub trait Transform {
    /// What the binding's configuration is read into.
    type Config: DeserializeOwned;

    /// Puts what becomes of a record into `sink`; an error is a failure of this record.
    fn transform(record: &Record<'_>, config: &Self::Config, sink: &mut Sink)
    -> Result<(), String>;
}

/// What a filter's function may return.
pub trait IntoVerdict {
    /// The verdict, or why there is none.
    fn into_verdict(self) -> Result<bool, String>;
}

impl IntoVerdict for bool {
    #[inline]
    fn into_verdict(self) -> Result<bool, String> {
        Ok(self)
    }
}

impl<E: Display> IntoVerdict for Result<bool, E> {
    #[inline]
    fn into_verdict(self) -> Result<bool, String> {
        self.map_err(|error| error.to_string())
    }
}

/// Takes what a transform's function returns for one record.
#[derive(Default)]
pub struct Sink {
    outputs: Vec<Output>,
}

/// What a transform's function may return.
pub trait IntoOutputs {
    /// Puts the outputs into `sink`, or says why there are none.
    fn into_outputs(self, sink: &mut Sink) -> Result<(), String>;
}

impl IntoOutputs for Output {
    #[inline]
    fn into_outputs(self, sink: &mut Sink) -> Result<(), String> {
        sink.outputs.push(self);
        Ok(())
    }
}

impl IntoOutputs for Option<Output> {
    #[inline]
    fn into_outputs(self, sink: &mut Sink) -> Result<(), String> {
        sink.outputs.extend(self);
        Ok(())
    }
}

impl IntoOutputs for Vec<Output> {
    #[inline]
    fn into_outputs(self, sink: &mut Sink) -> Result<(), String> {
        sink.outputs.extend(self);
        Ok(())
    }
}

impl<T: IntoOutputs, E: Display> IntoOutputs for Result<T, E> {
    #[inline]
    fn into_outputs(self, sink: &mut Sink) -> Result<(), String> {
        self.map_err(|error| error.to_string())?.into_outputs(sink)
    }
}

thread_local! {
    /// The record that the plugin's function works on, for its last words.
    static CURRENT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Reads the configuration, and makes a panic leave its text with the broker.
pub fn init<C: DeserializeOwned>(config: &str) -> Result<C, String> {
    std::panic::set_hook(Box::new(|panic| {
        host::last_words(&panic.to_string(), CURRENT.get());
    }));
    let text = if config.trim().is_empty() {
        "{}"
    } else {
        config
    };
    serde_json::from_str(text).map_err(|error| {
        format!("the configuration does not fit this plugin: {error}; it is: {text}")
    })
}

/// Runs a filter over the records of a call. A loop looks at the clock each time around, so eight
/// records, a byte of verdicts, are one.
pub fn filter<F: Filter>(records: &Records, config: &F::Config) -> Verdicts {
    let reader = Reader::new(records);
    let mut failures = Vec::new();
    let mut verdict = |index: usize| {
        CURRENT.set(Some(index as u32));
        match F::keep(&reader.record(index), config) {
            Ok(keep) => u8::from(keep),
            Err(message) => {
                failures.push(Failure {
                    index: index as u32,
                    message,
                });
                0
            }
        }
    };
    let (bytes, rest) = (reader.count() / 8, reader.count() % 8);
    let mut keep = Vec::with_capacity(reader.count().div_ceil(8));
    for byte in 0..bytes {
        let bits = (0..8).map(|bit| verdict(byte * 8 + bit) << bit);
        keep.push(bits.fold(0, u8::bitor));
    }
    if rest > 0 {
        let bits = (0..rest).map(|bit| verdict(bytes * 8 + bit) << bit);
        keep.push(bits.fold(0, u8::bitor));
    }
    CURRENT.set(None);
    metrics::flush();
    Verdicts { keep, failures }
}

/// Runs a transform over the records of a call.
pub fn transform<T: Transform>(
    records: &Records,
    config: &T::Config,
) -> Result<Transformed, String> {
    let reader = Reader::new(records);
    let mut writer = Writer::with_room_for(records);
    let mut router = Router::default();
    let mut sink = Sink::default();
    let mut failures = Vec::new();
    for index in 0..reader.count() {
        CURRENT.set(Some(index as u32));
        let record = reader.record(index);
        match T::transform(&record, config, &mut sink) {
            Ok(()) => {
                for output in sink.outputs.drain(..) {
                    router.push(writer.len(), output.topic.as_deref());
                    writer.push(&record, &output);
                }
            }
            Err(message) => {
                sink.outputs.clear();
                failures.push(Misplaced {
                    failure: Failure {
                        index: index as u32,
                        message,
                    },
                    position: writer.len() as u32,
                });
            }
        }
    }
    CURRENT.set(None);
    metrics::flush();
    let records = writer.finish()?;
    Ok(Transformed {
        routes: router.finish(records.count as usize),
        records,
        failures,
    })
}

/// Collects where records go; costs nothing until one goes elsewhere.
#[derive(Default)]
struct Router {
    topics: Vec<String>,
    targets: Vec<u32>,
}

impl Router {
    fn push(&mut self, index: usize, topic: Option<&str>) {
        let Some(topic) = topic else { return };
        let known = self.topics.iter().position(|known| known == topic);
        let position = known.unwrap_or_else(|| {
            self.topics.push(topic.to_owned());
            self.topics.len() - 1
        });
        self.targets.resize(index, 0);
        self.targets.push(position as u32 + 1);
    }

    fn finish(mut self, count: usize) -> Option<Routes> {
        if self.topics.is_empty() {
            return None;
        }
        self.targets.resize(count, 0);
        Some(Routes {
            topics: self.topics,
            targets: self.targets,
        })
    }
}

/// Exports a [`Filter`] as a component.
#[macro_export]
#[doc(hidden)]
macro_rules! export_filter {
    ($guest:ident) => {
        ::std::thread_local! {
            static CONFIG: ::core::cell::OnceCell<<$guest as $crate::guest::Filter>::Config> =
                const { ::core::cell::OnceCell::new() };
        }

        impl $crate::bindings::filter::exports::flumen::plugin::filtering::Guest for $guest {
            fn init(
                config: ::std::string::String,
            ) -> ::core::result::Result<(), ::std::string::String> {
                let config = $crate::guest::init(&config)?;
                CONFIG.with(|slot| slot.set(config)).map_err(|_| $crate::guest::INIT_TWICE.into())
            }

            fn filter(
                records: $crate::bindings::types::Records,
            ) -> ::core::result::Result<
                $crate::bindings::filter::exports::flumen::plugin::filtering::Verdicts,
                ::std::string::String,
            > {
                CONFIG.with(|slot| match slot.get() {
                    Some(config) => Ok($crate::guest::filter::<$guest>(&records, config)),
                    None => Err($crate::guest::NO_INIT.into()),
                })
            }
        }

        $crate::bindings::filter::export!($guest with_types_in $crate::bindings::filter);
    };
}

/// Exports a [`Transform`] as a component.
#[macro_export]
#[doc(hidden)]
macro_rules! export_transform {
    ($guest:ident) => {
        ::std::thread_local! {
            static CONFIG: ::core::cell::OnceCell<<$guest as $crate::guest::Transform>::Config> =
                const { ::core::cell::OnceCell::new() };
        }

        impl $crate::bindings::transform::exports::flumen::plugin::transforming::Guest for $guest {
            fn init(
                config: ::std::string::String,
            ) -> ::core::result::Result<(), ::std::string::String> {
                let config = $crate::guest::init(&config)?;
                CONFIG.with(|slot| slot.set(config)).map_err(|_| $crate::guest::INIT_TWICE.into())
            }

            fn transform(
                records: $crate::bindings::types::Records,
            ) -> ::core::result::Result<
                $crate::bindings::transform::exports::flumen::plugin::transforming::Transformed,
                ::std::string::String,
            > {
                CONFIG.with(|slot| match slot.get() {
                    Some(config) => $crate::guest::transform::<$guest>(&records, config),
                    None => Err($crate::guest::NO_INIT.into()),
                })
            }
        }

        $crate::bindings::transform::export!($guest with_types_in $crate::bindings::transform);
    };
}

/// What a second `init` is told.
pub const INIT_TWICE: &str = "init was called before in this instance";
/// What a call before `init` is told.
pub const NO_INIT: &str = "init must be called first";
