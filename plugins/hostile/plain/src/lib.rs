//! A transform that does what the value of each record says, for tests of what the broker
//! makes of it.
use flumen_plugin::{Output, Record, transform};

#[transform]
fn obey(record: &Record) -> Result<Vec<Output>, String> {
    let Some(value) = record.value() else {
        return Ok(vec![Output::same()]);
    };
    let text = std::str::from_utf8(value).map_err(|error| error.to_string())?;
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok(match verb {
        "drop" => vec![],
        "say" => vec![Output::same().value(rest)],
        "twice" => vec![Output::same().value(rest), Output::same().value(rest)],
        "key" => vec![Output::same().key(rest)],
        "erase" => vec![Output::same().no_value()],
        "mark" => vec![Output::same().header("mark", rest)],
        "to" => vec![Output::same().topic(rest)],
        "later" => vec![Output::same().timestamp_ms(record.timestamp_ms() + 1_000)],
        "fail" => return Err(format!("told to fail: {rest}")),
        "panic" => panic!("told to panic: {rest}"),
        _ => vec![Output::same()],
    })
}
