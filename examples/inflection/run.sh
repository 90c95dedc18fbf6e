#!/usr/bin/env bash
# Forms of words from lemma and features, SIGMORPHON 2022, four languages with the same settings.
# Usage: run.sh DATA_FOLDER OUTPUT_FOLDER [KEY=VALUE ...]
#   DATA_FOLDER    holds LANGUAGE_large.train LANGUAGE.dev LANGUAGE.gold: lemma TAB form TAB features
#   OUTPUT_FOLDER  gets a folder for each language; a repeated command continues where it stopped
#   KEY=VALUE      more options of s2s-train, such as train.max_updates=1000
# The variable LANGUAGES chooses some of them: LANGUAGES="got tur" run.sh ...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then sed -n '2,7s/^# //p' "$0" >&2; exit 2; fi
data=$1 out=$2
shift 2
languages=${LANGUAGES:-got hun non tur}
for language in $languages; do
    [ -f "$data/${language}_large.train" ] ||
        { echo "no language $language: no $data/${language}_large.train" >&2; exit 2; }
done

scores=()
for language in $languages; do
    folder=$out/$language
    mkdir -p "$folder"
    python3 "$here/prepare.py" "$data/${language}_large.train" "$folder/train.tsv"
    python3 "$here/prepare.py" "$data/$language.dev" "$folder/dev.tsv"
    python3 "$here/prepare.py" "$data/$language.gold" "$folder/test.tsv"
    [ -f "$folder/store/manifest.json" ] ||
        s2s-preprocess source=lemma target=form train="$folder/train.tsv" valid="$folder/dev.tsv" \
            test="$folder/test.tsv" tokenizer=words store="$folder/store"
    s2s-train --config "$here/config.yaml" store="$folder/store" run="$folder/run" "$@"
    s2s-generate checkpoint="$folder/run" store="$folder/store" split=test output="$folder/test.hyp"
    cut -f 2 "$folder/test.tsv" > "$folder/test.ref"
    s2s-score hypothesis="$folder/test.hyp" reference="$folder/test.ref" metrics='[exact_match,per]' \
        format=json output="$folder/scores.json"
    scores+=("$folder/scores.json")
done
python3 "$here/table.py" "${scores[@]}"
