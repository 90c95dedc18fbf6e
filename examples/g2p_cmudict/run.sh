#!/usr/bin/env bash
# English grapheme-to-phoneme conversion on CMUdict, from raw text to error rates.
# Usage: run.sh DATA_FOLDER OUTPUT_FOLDER [CONFIG.yaml] [KEY=VALUE ...]
#   DATA_FOLDER    where prepare.py has written its files; it is run if they are not there
#   OUTPUT_FOLDER  gets the store, the run, the hypotheses and the scores; a repeated command continues where it stopped
#   CONFIG.yaml    config.yaml (the default, minutes) or long.yaml (hours) of this folder, or a file of your own
#   KEY=VALUE      more options of s2s-train, such as train.max_updates=500
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then sed -n '2,7s/^# //p' "$0" >&2; exit 2; fi
data=$1 out=$2
shift 2
config=$here/config.yaml
case ${1-} in
    *=*) ;;
    *.yaml) if [ -f "$1" ]; then config=$1; else config=$here/$1; fi; shift ;;
esac

[ -f "$data/test.ref0" ] || python3 "$here/prepare.py" "$data"

mkdir -p "$out"
[ -f "$out/store/manifest.json" ] ||
    s2s-preprocess source=graphemes target=phonemes \
        train="$data/train.tsv" valid="$data/valid.tsv" test="$data/test.tsv" \
        tokenizer=characters target_tokenizer=words store="$out/store"

s2s-train --config "$config" store="$out/store" run="$out/run" "$@"

s2s-generate checkpoint="$out/run" store="$out/store" split=test output="$out/test.hyp"

references=("$data"/test.ref*)
s2s-score hypothesis="$out/test.hyp" reference="[$(IFS=, && echo "${references[*]}")]" metrics='[per,ser]' \
    format=json output="$out/scores.json"
python3 "$here/table.py" "$out/scores.json"
