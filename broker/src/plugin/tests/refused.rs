//! What is refused when it is deployed or bound, and in which words.
use super::*;

fn refused(bytes: impl Into<bytes::Bytes>) -> DeployError {
    let error = engine().load_blocking(bytes).unwrap_err();
    assert_others_are_served();
    error
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {text})")).unwrap()
}

#[test]
fn what_is_no_webassembly() {
    assert!(matches!(refused(&b""[..]), DeployError::NotWebAssembly(_)));
    let text = refused(&b"#!/bin/sh\nrm -rf /\n"[..]).to_string();
    assert!(text.contains("#!/bin/s"), "{text}");
    assert!(matches!(
        refused(&b"\0asm\x09\0\x07\0"[..]),
        DeployError::NotWebAssembly(_)
    ));
}

#[test]
fn a_core_module() {
    let module = wat::parse_str("(module)").unwrap();
    let error = refused(module);
    assert_eq!(error, DeployError::CoreModule);
    assert!(error.to_string().contains("wasm32-wasip2"));
}

#[test]
fn a_damaged_component() {
    let good = guest("misbehave");
    for len in [8, 100, good.len() / 2, good.len() - 1] {
        let error = refused(good[..len].to_vec());
        assert!(
            matches!(
                error,
                DeployError::Invalid(_) | DeployError::WrongWorld { .. }
            ),
            "{len}: {error}"
        );
    }
}

#[test]
fn a_component_of_another_world() {
    let error = refused(component(""));
    assert!(error.to_string().contains("exports nothing"), "{error}");
    let error = refused(component(
        r#"(instance $i) (export "wasi:cli/run@0.2.0" (instance $i))"#,
    ));
    assert!(
        error.to_string().contains("exports wasi:cli/run@0.2.0"),
        "{error}"
    );
    assert!(
        error.to_string().contains("flumen:plugin/filtering@0.1.0"),
        "{error}"
    );
}

#[test]
fn a_component_of_both_worlds() {
    let error = refused(component(
        r#"(instance $i)
           (export "flumen:plugin/filtering@0.1.0" (instance $i))
           (export "flumen:plugin/transforming@0.1.0" (instance $i))"#,
    ));
    assert_eq!(error, DeployError::TwoWorlds);
}

#[test]
fn a_component_of_another_version() {
    let error = refused(component(
        r#"(instance $i) (export "flumen:plugin/filtering@0.2.0" (instance $i))"#,
    ));
    let text = error.to_string();
    assert!(matches!(error, DeployError::WrongVersion { .. }), "{text}");
    assert!(text.contains("flumen:plugin/filtering@0.2.0"), "{text}");
    assert!(text.contains("offers flumen:plugin@0.1.0"), "{text}");
}

#[test]
fn imports_that_are_not_offered_are_named() {
    let error = refused(component(
        r#"(import "wasi:sockets/tcp@0.2.0" (instance))
           (import "wasi:http/outgoing-handler@0.2.0" (instance))
           (import "wasi:clocks/wall-clock@0.2.0" (instance))
           (import "wasi:clocks/wall-clock@0.3.0" (instance))
           (instance $i)
           (export "flumen:plugin/filtering@0.1.0" (instance $i))"#,
    ));
    assert_eq!(
        error,
        DeployError::ImportsNotOffered(vec![
            "wasi:sockets/tcp@0.2.0".to_owned(),
            "wasi:http/outgoing-handler@0.2.0".to_owned(),
            "wasi:clocks/wall-clock@0.3.0".to_owned(),
        ])
    );
}

#[test]
fn a_function_that_is_missing_from_an_offered_import() {
    let error = refused(component(
        r#"(import "flumen:plugin/host@0.1.0" (instance (export "open-file" (func))))
           (instance $i)
           (export "flumen:plugin/filtering@0.1.0" (instance $i))"#,
    ));
    assert!(error.to_string().contains("open-file"), "{error}");
}

#[test]
fn the_right_names_with_other_types() {
    let error = refused(component(
        r#"(instance $i) (export "flumen:plugin/filtering@0.1.0" (instance $i))"#,
    ));
    assert!(matches!(error, DeployError::WrongTypes(_)), "{error}");
    let error = refused(component(
        r#"(core module $m (func (export "f")))
           (core instance $c (instantiate $m))
           (func $f (canon lift (core func $c "f")))
           (instance $i (export "init" (func $f)) (export "filter" (func $f)))
           (export "flumen:plugin/filtering@0.1.0" (instance $i))"#,
    ));
    assert!(matches!(error, DeployError::WrongTypes(_)), "{error}");
}

#[test]
fn a_file_over_the_limit() {
    let error = refused(vec![0; PLUGIN_BYTES_MAX + 1]);
    assert!(matches!(error, DeployError::TooLarge { .. }));
    assert!(error.to_string().contains("16 MiB"), "{error}");
}

#[test]
fn start_up_code_that_does_not_end() {
    let error = refused(component(
        r#"(core module $m (func $s (loop br 0)) (start $s))
           (core instance $c (instantiate $m))
           (instance $i)
           (export "flumen:plugin/filtering@0.1.0" (instance $i))"#,
    ));
    // Its missing functions are seen first; what matters is that it does not hang.
    assert!(
        matches!(error, DeployError::WrongTypes(_) | DeployError::Start(_)),
        "{error}"
    );
}

#[test]
fn tables_over_the_limit() {
    let elements = TABLE_ELEMENTS_MAX + 1;
    let error = refused(component(&format!(
        r#"(core module $m
             (table {elements} funcref)
             (func (export "init") (param i32 i32) (result i32) unreachable)
             (func (export "filter") (param i32) (result i32) unreachable)
             (memory (export "memory") 1)
             (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
           (core instance $c (instantiate $m))
           (alias core export $c "memory" (core memory $memory))
           (func $init (param "config" string) (result (result (error string)))
             (canon lift (core func $c "init") (memory $memory) (realloc (core func $c "realloc"))))
           (instance $i (export "init" (func $init)) (export "filter" (func $init)))
           (export "flumen:plugin/filtering@0.1.0" (instance $i))"#
    )));
    assert_eq!(error, DeployError::Start(CallError::Tables));
}

#[test]
fn settings_out_of_range() {
    let config = settings("misbehave", r#"{"do": "nothing"}"#);
    let error = bind_with(BindingConfig {
        timeout_ms: 0,
        ..config.clone()
    })
    .unwrap_err();
    assert_eq!(error, BindError::Timeout(0));
    assert!(error.to_string().contains("use 1 to 60000 ms"), "{error}");
    let error = bind_with(BindingConfig {
        memory_bytes_max: u64::MAX,
        ..config
    })
    .unwrap_err();
    assert_eq!(error, BindError::Memory(u64::MAX));
}
