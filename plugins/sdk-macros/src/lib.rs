//! The attribute macros of `flumen-plugin`, which re-exports and documents them. They turn a
//! function into a WebAssembly component that implements one of Flumen's worlds.
//!
//! The function itself stays as it was written, so that its own unit tests can call it.
use proc_macro::TokenStream;
use proc_macro2::{Span, TokenStream as Tokens};
use quote::quote;
use syn::{Error, FnArg, ItemFn, ReturnType, Type};

/// Makes a filter of a function. See the documentation of `flumen-plugin`.
#[proc_macro_attribute]
pub fn filter(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(attribute.into(), item.into(), &FILTER).into()
}

/// Makes a transform of a function. See the documentation of `flumen-plugin`.
#[proc_macro_attribute]
pub fn transform(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(attribute.into(), item.into(), &TRANSFORM).into()
}

/// What differs between the worlds.
struct World {
    attribute: &'static str,
    returns: &'static str,
    implementation: fn(&Tokens, &Tokens) -> Tokens,
}

const FILTER: World = World {
    attribute: "filter",
    returns: "a `bool`, or a `Result<bool, E>`",
    implementation: |config, call| {
        quote! {
            impl ::flumen_plugin::guest::Filter for Guest {
                type Config = #config;
                fn keep(
                    record: &::flumen_plugin::Record<'_>,
                    config: &Self::Config,
                ) -> ::core::result::Result<bool, ::std::string::String> {
                    ::flumen_plugin::guest::IntoVerdict::into_verdict(#call)
                }
            }
            ::flumen_plugin::guest::export_filter!(Guest);
        }
    },
};

const TRANSFORM: World = World {
    attribute: "transform",
    returns: "an `Output`, an `Option<Output>`, a `Vec<Output>`, or a `Result` of one of these",
    implementation: |config, call| {
        quote! {
            impl ::flumen_plugin::guest::Transform for Guest {
                type Config = #config;
                fn transform<'r>(
                    record: &::flumen_plugin::Record<'r>,
                    config: &Self::Config,
                    sink: &mut ::flumen_plugin::guest::Sink,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    ::flumen_plugin::guest::IntoOutputs::into_outputs(#call, sink)
                }
            }
            ::flumen_plugin::guest::export_transform!(Guest);
        }
    },
};

fn expand(attribute: Tokens, item: Tokens, world: &World) -> Tokens {
    let function = match check(attribute, item.clone(), world) {
        Ok(function) => function,
        Err(error) => {
            let error = error.to_compile_error();
            return quote!(#item #error);
        }
    };
    let name = &function.sig.ident;
    let (config, call) = match function.sig.inputs.iter().nth(1).map(config_type) {
        None => (
            quote!(::flumen_plugin::guest::NoConfig),
            quote!({
                let _ = config;
                #name(record)
            }),
        ),
        Some(Ok(config)) => (quote!(#config), quote!(#name(record, config))),
        Some(Err(error)) => {
            let error = error.to_compile_error();
            return quote!(#function #error);
        }
    };
    let implementation = (world.implementation)(&config, &call);
    quote! {
        #function

        const _: () = {
            struct Guest;
            #implementation
        };
    }
}

/// Checks what can be checked before types are known, to say it in better words than the
/// compiler would.
fn check(attribute: Tokens, item: Tokens, world: &World) -> Result<ItemFn, Error> {
    if !attribute.is_empty() {
        return Err(Error::new_spanned(
            attribute,
            format!("#[{}] takes no arguments", world.attribute),
        ));
    }
    let function: ItemFn = syn::parse2(item).map_err(|_| {
        Error::new(
            Span::call_site(),
            format!("#[{}] goes on a function", world.attribute),
        )
    })?;
    let signature = &function.sig;
    let refuse = |what: &str| {
        Err(Error::new_spanned(
            signature,
            format!(
                "#[{}] needs `fn {}(record: &Record, config: &Config) -> ...`, where `config` \
                 may be left out: {what}",
                world.attribute, signature.ident
            ),
        ))
    };
    if signature.asyncness.is_some() {
        return refuse("it cannot be async, as a plugin has nothing to wait for");
    }
    if signature.generics.type_params().next().is_some()
        || signature.generics.const_params().next().is_some()
    {
        return refuse("it cannot be generic");
    }
    if !(1..=2).contains(&signature.inputs.len()) {
        return refuse("this one has another number of parameters");
    }
    if matches!(signature.output, ReturnType::Default) {
        return refuse(&format!("it returns {}", world.returns));
    }
    Ok(function)
}

/// `Config` out of `config: &Config`.
fn config_type(argument: &FnArg) -> Result<&Type, Error> {
    if let FnArg::Typed(typed) = argument
        && let Type::Reference(reference) = &*typed.ty
        && reference.mutability.is_none()
    {
        return Ok(&reference.elem);
    }
    Err(Error::new_spanned(
        argument,
        "the configuration is borrowed, as every call uses the same: `config: &Config`",
    ))
}
