"""Completion in a shell: the scripts are run by the shells themselves, where these are installed."""

import shutil
import subprocess

import pytest

CORPUS = ["hyp.en", "hyps", "ref.a.en"]


@pytest.fixture
def complete(tmp_path, s2s, capsys):
    """complete(shell, "score", "metrics=[bl") are the completions of a command's last argument."""
    for name in CORPUS:
        (tmp_path / name).touch()

    def run(shell, command, *words):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        script = tmp_path / f"{command}.{shell}"
        if not script.exists():
            assert s2s(command, "--completion", shell) == 0
            script.write_text(capsys.readouterr().out)
        name, line = f"s2s-{command}", " ".join([f"s2s-{command}", *words])
        text = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell].format(
            script=script, name=name, function="_" + name.replace("-", "_"), line=line, last=words[-1],
            before=words[-2] if len(words) > 1 else name, count=len(words) + 1,
        )  # fmt: skip
        made = subprocess.run([shell, "-c", text], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert made.returncode == 0, made.stderr
        assert made.stderr == ""
        return made.stdout.split("\n")[:-1]

    return run


# What a shell does when the user presses the tabulator.
BASH = """
source {script}
COMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}}
[[ $(complete -p {name}) == "complete -F {function} {name}" ]] || exit 3
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
compdef() {{ }}
compset() {{ [[ $1 == -P && $PREFIX == ${{~2}}* ]] && IPREFIX=${{(M)PREFIX##${{~2}}}} && PREFIX=${{PREFIX#$IPREFIX}}; }}
compadd() {{ while [[ $1 != -- ]]; do shift; done; shift; print -l -- ${{(M)@:#$PREFIX*}} | sed "s/^/$IPREFIX/"; }}
_files() {{ print -l -- $PREFIX*(N) | sed "s/^/$IPREFIX/"; }}
source {script}
PREFIX='{last}' IPREFIX= CURRENT={count} words=(${{(s: :):-'{line}'}})
words[CURRENT-1]='{before}'
{function}
"""
FISH = """
source {script}
complete -C '{line}' | string replace -r '\\t.*' ''; true
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_keys_values_presets_and_files_are_completed(complete, shell):
    # bash has divided the line at `=`, and replaces what is after it
    begin = (lambda key: "") if shell == "bash" else (lambda key: key)
    assert complete(shell, "score", "hyp") == ["hypothesis="]
    assert sorted(complete(shell, "score", "m")) == ["max_line_bytes=", "metrics=", "model="]
    assert complete(shell, "score", "format=j") == [begin("format=") + "json"]
    assert complete(shell, "score", "metrics=[bleu,ex") == [begin("metrics=") + "[bleu,exact_match"]
    assert sorted(complete(shell, "score", "hypothesis=hy")) == [begin("hypothesis=") + name for name in CORPUS[:2]]
    assert complete(shell, "score", "reference=[hyp.en,re") == [begin("reference=") + "[hyp.en,ref.a.en"]
    assert complete(shell, "score", "--prin") == ["--print-config"]
    assert complete(shell, "score", "lowercase=t") == [begin("lowercase=") + "true"]
    assert complete(shell, "preprocess", "task=mult") == [begin("task=") + "multi_source"]
    assert complete(shell, "preprocess", "features.sam") == ["features.sample_rate="]  # of another task
    assert complete(shell, "preprocess", "tokenizer=sentenc") == [begin("tokenizer=") + "sentencepiece"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_keys_are_completed_up_to_the_next_dot_and_sections_after_help(complete, shell):
    assert sorted(complete(shell, "train", "mod")) == ["model.", "model="]
    assert sorted(complete(shell, "train", "model.enc")) == ["model.encoder.", "model.encoder="]
    assert complete(shell, "train", "model.frontend.conse") == ["model.frontend.consensus="]  # only gbst has it
    assert complete(shell, "train", "optim=adamw") == [("" if shell == "bash" else "optim=") + "adamw"]
    assert complete(shell, "train", "--help", "opt")[0] == "optim"


def test_an_unknown_shell_is_an_error(s2s, capsys):
    assert s2s("train", "--completion", "tcsh") == 2
    assert "--completion tcsh: did you mean 'zsh'?" in capsys.readouterr().err
    assert s2s("train", "--completion") == 2
    assert "--completion requires bash, zsh or fish" in capsys.readouterr().err
