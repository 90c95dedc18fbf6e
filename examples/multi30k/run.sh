#!/usr/bin/env bash
# German to English on Multi30k, from raw text to BLEU, chrF and TER on test 2016.
# Usage: run.sh DATA_FOLDER OUTPUT_FOLDER [KEY=VALUE ...]
#   DATA_FOLDER    holds train.{de,en} val.{de,en} test_2016_flickr.{de,en}, plain or with the ending .gz
#   OUTPUT_FOLDER  gets the store, the run, the hypotheses and the scores; a repeated command continues where it stopped
#   KEY=VALUE      more options of s2s-train, such as train.max_updates=1000
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then sed -n '2,6s/^# //p' "$0" >&2; exit 2; fi
data=$1 out=$2
shift 2

mkdir -p "$out"
[ -f "$out/store/manifest.json" ] ||
    s2s-preprocess source=de target=en train="$data/train" valid="$data/val" test="$data/test_2016_flickr" \
        tokenizer=sentencepiece tokenizer.vocab_size=8000 store="$out/store"

s2s-train --config "$here/config.yaml" store="$out/store" run="$out/run" "$@"

s2s-generate checkpoint="$out/run" store="$out/store" split=test output="$out/test2016.en"

reference=$data/test_2016_flickr.en
[ -f "$reference" ] || reference=$reference.gz
s2s-score hypothesis="$out/test2016.en" reference="$reference" metrics='[bleu,chrf,ter]' | tee "$out/scores.txt"
