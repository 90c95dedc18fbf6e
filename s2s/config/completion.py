"""Completion of a command's arguments in a shell: `--completion bash` prints a script that needs no Python.

The script holds all keys of all components and presets, their values where these are known, and the sections of
`--help`. A key is completed up to its next dot, like a folder. Values of other keys are completed as files.
"""

from collections.abc import Callable, Iterator
from typing import Any

from s2s import registry
from s2s.config import compose, help
from s2s.config import schema as schemas
from s2s.errors import UserError

FLAGS = ("--help", "--config", "--print-config", "--version", "--completion")


def script(shell: str, name: str, schema: type, multirun: bool = False,
           by_task: Callable[[str], type] | None = None) -> str:  # fmt: skip
    """The script that defines the completion of a command.

    Args:
        shell: bash, zsh or fish.
        name: The command's name.
        schema: Its root config dataclass.
        multirun: Whether `--multirun` is accepted.
        by_task: Returns the schema of a task, if the task decides which keys there are.

    Raises:
        UserError: no such shell.
    """
    if shell not in SCRIPTS:
        raise UserError(f"--completion {shell}: {registry.nearest(shell, SCRIPTS)}")
    values: dict[str, list[str]] = {}
    topics: dict[str, None] = {}
    tasks = registry.names("preprocess") if by_task else []
    for root in [by_task(task) for task in tasks] if by_task else [schema]:
        config = compose.compose(root, [])
        topics |= dict.fromkeys(help.topics(config))
        for key, known in _keys(config):
            values.setdefault(key, known)
    if tasks:
        values["task"] = tasks
    flags = [*FLAGS, *["--multirun"] * multirun]
    keys = "".join(f"{key}={' '.join(known)}\n" for key, known in values.items())
    slots = {"COMMAND": name, "FUNCTION": name.replace("-", "_"), "KEYS": keys, "FLAGS": " ".join(flags),
             "TOPICS": " ".join(topics), "SHELLS": " ".join(SCRIPTS)}  # fmt: skip
    text = SCRIPTS[shell]
    for slot, value in slots.items():
        text = text.replace(f"@{slot}@", value)
    return text


def _keys(config: Any) -> Iterator[tuple[str, list[str]]]:
    """All keys of a config, and of the components that may stand in it, each with its known values."""
    seen: set[tuple[str, str]] = set()
    waiting = [(config, "")]
    while waiting:
        part, prefix = waiting.pop(0)
        groups = {f"{prefix}{key}": field for key, field, _ in schemas.held(part)}
        for leaf in schemas.leaves(part, prefix):
            if leaf.key in groups or leaf.key.removesuffix(".type") in (*groups, prefix.removesuffix(".")):
                continue
            known = [*leaf.metadata.get("choices", ())] or ["true", "false"] * (leaf.annotation is bool)
            yield leaf.key, [str(value) for value in known]
        for key, field in groups.items():
            names = compose.presets(field.metadata["group"])
            yield key, names
            several = schemas.is_list(field)
            for name in names:
                below = f"{key.rpartition('.')[0]}.{name}".lstrip(".") if several else key
                inner = compose.preset(field.metadata["group"], name)
                place = (below, getattr(inner, "type", name))
                if place not in seen:
                    seen.add(place)
                    waiting.append((inner, f"{below}."))


BASH = r"""# Completion of @COMMAND@ for bash: source this file, or save it as
# ~/.local/share/bash-completion/completions/@COMMAND@
_@FUNCTION@_keys='@KEYS@'
_@FUNCTION@() {
    local line=${COMP_LINE:0:COMP_POINT} word before key value head rest match
    word=${line##*[[:space:]]}
    before=${line%"$word"}
    before=${before%"${before##*[![:space:]]}"}
    before=${before##*[[:space:]]}
    COMPREPLY=()
    case $before in
        --help) [[ $word != *=* ]] && mapfile -t COMPREPLY < <(compgen -W "@TOPICS@" -- "$word") ;;
        --completion) mapfile -t COMPREPLY < <(compgen -W "@SHELLS@" -- "$word"); return ;;
        --config) mapfile -t COMPREPLY < <(compgen -f -- "$word"); compopt -o filenames 2>/dev/null; return ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "@FLAGS@" -- "$word")
        return
    fi
    if [[ $word != *=* ]]; then
        while IFS= read -r key; do
            key=${key%%=*}
            [[ -n $key && $key == "$word"* ]] || continue
            rest=${key#"$word"}
            if [[ $rest == *.* ]]; then match=$word${rest%%.*}.; else match=$key=; fi
            [[ " ${COMPREPLY[*]} " == *" $match "* ]] || COMPREPLY+=("$match")
        done <<< "$_@FUNCTION@_keys"
        (( ${#COMPREPLY[@]} )) && [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace 2>/dev/null
        (( ${#COMPREPLY[@]} )) || mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    key=${word%%=*} value=${word#*=}
    head=${value%"${value##*[\[,]}"} value=${value##*[\[,]}
    [[ $COMP_WORDBREAKS == *=* ]] || head=$key=$head
    match=
    while IFS= read -r rest; do
        [[ $rest == "$key="* ]] && match=${rest#*=}
    done <<< "$_@FUNCTION@_keys"
    if [[ -n $match ]]; then
        mapfile -t COMPREPLY < <(compgen -P "$head" -W "$match" -- "$value")
        [[ $head == *\[* ]] && compopt -o nospace 2>/dev/null
    else
        mapfile -t COMPREPLY < <(compgen -P "$head" -f -- "$value")
        if [[ -z $head ]]; then compopt -o filenames 2>/dev/null; else compopt -o nospace 2>/dev/null; fi
    fi
}
complete -F _@FUNCTION@ @COMMAND@
"""

ZSH = r"""#compdef @COMMAND@
# Completion of @COMMAND@ for zsh: source this file after compinit, or save it as _@COMMAND@ in a folder of $fpath
_@FUNCTION@() {
    local keys='@KEYS@'
    local word=$PREFIX before=${words[CURRENT-1]} key rest match
    local -a found
    case $before in
        (--help) [[ $word == *=* ]] || compadd -- ${(s: :):-"@TOPICS@"} ;;
        (--completion) compadd -- ${(s: :):-"@SHELLS@"}; return ;;
        (--config) _files; return ;;
    esac
    if [[ $word == -* ]]; then
        compadd -- ${(s: :):-"@FLAGS@"}
    elif [[ $word != *=* ]]; then
        for key in ${(f)keys}; do
            key=${key%%=*}
            [[ $key == "$word"* ]] || continue
            rest=${key#"$word"}
            if [[ $rest == *.* ]]; then match=$word${rest%%.*}.; else match=$key=; fi
            found+=($match)
        done
        if (( $#found )); then compadd -S '' -- ${(u)found}; else _files; fi
    else
        key=${word%%=*}
        for rest in ${(f)keys}; do
            [[ $rest == "$key="* ]] && found=(${(s: :)${rest#*=}})
        done
        compset -P '*[=,\[]'
        if (( $#found )); then compadd -S '' -- $found; else _files -S ''; fi
    fi
}
if [[ $funcstack[1] == _@COMMAND@ ]]; then _@FUNCTION@ "$@"; else compdef _@FUNCTION@ @COMMAND@; fi
"""

FISH = r"""# Completion of @COMMAND@ for fish: save this file as ~/.config/fish/completions/@COMMAND@.fish
set -g __@FUNCTION@_keys '@KEYS@'
function __@FUNCTION@
    set -l word (commandline -ct)
    set -l before (commandline -poc)[-1]
    switch "$before"
        case --help
            string match -q -- '*=*' "$word"; or string split ' ' -- '@TOPICS@'
        case --completion
            string split ' ' -- '@SHELLS@'
            return
        case --config
            __fish_complete_path "$word"
            return
    end
    if string match -q -- '-*' "$word"
        string split ' ' -- '@FLAGS@'
    else if not string match -q -- '*=*' "$word"
        set -l size (string length -- "$word")
        for key in (string split \n -- "$__@FUNCTION@_keys" | string replace -r '=.*' '=')
            test (string sub -l $size -- "$key") = "$word"; or continue
            echo $word(string sub -s (math $size + 1) -- "$key" | string replace -r '^([^.]*\.).*' '$1')
        end | sort -u
    else
        set -l key (string split -m 1 = -- "$word")[1]
        set -l head (string replace -r '[^=,\[]*$' '' -- "$word")
        set -l value (string replace -r '.*[=,\[]' '' -- "$word")
        set -l known_key "^"(string escape --style=regex -- "$key")"="
        set -l line (string split \n -- "$__@FUNCTION@_keys" | string match -e -r -- "$known_key")
        set -l known (string split -n ' ' -- (string replace -r '^[^=]*=' '' -- "$line"))
        test (count $known) -gt 0; or set known (__fish_complete_path "$value" | string replace -r '\t.*' '')
        for item in $known
            echo $head$item
        end
    end
end
complete -c @COMMAND@ -f -a '(__@FUNCTION@)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
