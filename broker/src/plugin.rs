//! x
mod apply;
mod binding;
mod breaker;
mod cache;
mod engine;
mod error;
mod hook;
mod host;
mod inspect;
mod instance;
pub mod limits;
mod returned;
mod ticker;
mod window;
mod wit;

pub use self::{
    apply::{HEADER_ERROR, HEADER_PLUGIN, HEADER_TOPIC},
    binding::{Binding, BindingReport},
    engine::{Plugin, PluginEngine},
    error::{BindError, CallError, DeployError, EngineError},
    hook::{Hook, HookBatch, HookOutcome, Rejection},
};
