//! The scripts that shells read: clap's, for commands and flags, which ask for names first.

use clap_complete::Shell;

use super::COMMAND;
use crate::arguments::Arguments;

/// Names, or what clap's script offers. `$2` is the word at the cursor as far as it is written.
const BASH: &str = r#"
_flumen_names() {
    local names
    names=$("$1" COMMAND bash "${COMP_WORDS[@]:0:COMP_CWORD}" "$2" 2>/dev/null </dev/null)
    if [[ -n "$names" ]]; then
        local IFS=$'\n'
        COMPREPLY=($names)
    else
        _flumen "$@"
    fi
}
"#;

/// It takes the place of clap's function: zsh loads that by its name.
const ZSH: &str = r#"
_flumen() {
    local -a names
    names=(${(f)"$("${words[1]}" COMMAND zsh "${(@)words[1,CURRENT-1]}" "$PREFIX" 2>/dev/null </dev/null)"})
    if (( $#names )); then
        _describe -t names 'name' names
    else
        _flumen_flags "$@"
    fi
}
"#;

/// Where there are names, no files are offered.
const FISH: &str = r#"
function __fish_flumen_names
    set -l before (commandline -opc)
    set -g __fish_flumen_found (command $before[1] COMMAND fish $before (commandline -ct) 2>/dev/null </dev/null)
    test (count $__fish_flumen_found) -gt 0
end
complete -c flumen -f -n __fish_flumen_names -a '(printf "%s\n" $__fish_flumen_found)'
"#;

/// It asks first, and calls clap's function where there are no names.
const ELVISH: &str = r"
var flumen-flags~ = $edit:completion:arg-completer[flumen]
set edit:completion:arg-completer[flumen] = {|@words|
    var names = []
    try {
        set names = [((external $words[0]) COMMAND elvish $@words 2>/dev/null </dev/null | from-lines)]
    } catch failure {
        nop $failure
    }
    if (== (count $names) 0) {
        flumen-flags $@words
    } else {
        put $@names
    }
}
";

/// What a shell reads to complete commands. PowerShell completes no names.
pub(crate) fn script(shell: Shell) -> Vec<u8> {
    let mut flags = Vec::new();
    let mut program = Arguments::program();
    clap_complete::generate(shell, &mut program, "flumen", &mut flags);
    let flags = String::from_utf8_lossy(&flags);
    let ask = |script: &str| script.replace("COMMAND", COMMAND);
    let script = match shell {
        Shell::Bash => {
            let before = "\nif [[ \"${BASH_VERSINFO[0]}\"";
            let flags = flags.replace("complete -F _flumen ", "complete -F _flumen_names ");
            flags.replacen(before, &(ask(BASH) + before), 1)
        }
        Shell::Zsh => {
            let before = "\nif [ \"$funcstack[1]\" = \"_flumen\" ]";
            let flags = flags.replacen("\n_flumen() {\n", "\n_flumen_flags() {\n", 1);
            flags.replacen(before, &(ask(ZSH) + before), 1)
        }
        Shell::Fish => flags.into_owned() + &ask(FISH),
        Shell::Elvish => flags.into_owned() + &ask(ELVISH),
        _ => flags.into_owned(),
    };
    script.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_of_clap_have_the_places_where_names_are_asked_for() {
        let script = |shell| String::from_utf8(script(shell)).unwrap();
        let bash = script(Shell::Bash);
        assert_eq!(bash.matches("complete -F _flumen_names ").count(), 2);
        assert_eq!(bash.matches("\n_flumen_names() {\n").count(), 1);
        let zsh = script(Shell::Zsh);
        assert_eq!(zsh.matches("\n_flumen() {\n").count(), 1);
        assert_eq!(zsh.matches("\n_flumen_flags() {\n").count(), 1);
        assert!(script(Shell::Fish).contains("-n __fish_flumen_names -a"));
        let elvish = script(Shell::Elvish);
        let set = "set edit:completion:arg-completer[flumen] = ";
        assert_eq!(elvish.matches(set).count(), 2);
    }
}
