//! The reference page of all settings, `docs/configuration.md`, made of the settings
//! themselves.

use std::fmt::Write as _;

use super::{Setting, settings};

const INTRODUCTION: &str = "\
# Configuration

A broker's settings come from, in order of precedence: a flag of `flumen serve`, an environment
variable, the file given with `--config`, the default. The file is [TOML](https://toml.io); a
setting that does not exist, or a value out of range, stops the start with an error that names it.

```toml
data_dir = \"/var/lib/flumen\"
listen = \"0.0.0.0:4650\"
advertise = \"broker-1.example.com\"

[wal]
sync = \"every 100ms\"
bytes_max = \"1GiB\"
```

Sizes are whole numbers with `B`, `KiB`, `MiB`, `GiB` or `TiB` (or, in powers of ten, `kB`, `MB`,
`GB`, `TB`); a number alone is bytes. Durations are whole numbers with `us`, `ms`, `s`, `min`, `h`,
`d` or `w`. Both may have several parts in a row.

This page is written by a test from the settings in `broker/src/config.rs`; to bring it up to
date, run `FLUMEN_UPDATE_DOCS=1 cargo test -p flumen-broker reference`.
";

/// The page as Markdown.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut section = None;
    for setting in settings() {
        let this = setting.key.split_once('.').map(|(section, _)| section);
        if this != section {
            section = this;
            let _ = write!(page, "\n## [{}]\n", this.unwrap_or_default());
        }
        describe(&mut page, &setting);
    }
    page
}

fn describe(page: &mut String, setting: &Setting) {
    let Setting {
        key, doc, default, ..
    } = setting;
    let flag = setting.flag();
    let variable = setting.variable();
    let range = match &setting.range {
        Some((lowest, highest)) => format!(" · range: {lowest} to {highest}"),
        None => String::new(),
    };
    let _ = write!(
        page,
        "\n**`{key}`** · `--{flag}` · `{variable}`\n\n{doc}\n\nDefault: `{default}`{range}\n"
    );
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn the_page_in_the_repository_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let page = super::reference();
        if std::env::var_os("FLUMEN_UPDATE_DOCS").is_some() {
            fs::write(&path, &page).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == page,
            "docs/configuration.md is out of date; run \
             `FLUMEN_UPDATE_DOCS=1 cargo test -p flumen-broker reference`"
        );
    }
}
