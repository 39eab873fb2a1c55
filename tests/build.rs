//! The simulation's own `getrandom` stands in front of that of the C library also for those who
//! look it up while the program runs, as the crate of that name does.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic-symbol=getrandom");
    }
}
