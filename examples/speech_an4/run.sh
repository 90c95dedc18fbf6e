#!/usr/bin/env bash
# Speech recognition on AN4: CTC, attention and both, of characters and of bytes, from recordings to word error rates.
# Usage: run.sh DATA_FOLDER OUTPUT_FOLDER [KEY=VALUE ...]
#   DATA_FOLDER    holds manifest_train.tsv with the columns id, audio, tgt_text, speaker; prepare.py divides it by speaker
#   OUTPUT_FOLDER  gets the stores and a folder for each model; a repeated command continues where it stopped
#   KEY=VALUE      more options of s2s-train for the recognisers, such as train.max_updates=100
# The variable MODELS chooses some of them, in this order: MODELS="ctc joint" run.sh ...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then sed -n '2,7s/^# //p' "$0" >&2; exit 2; fi
data=$1 out=$2
shift 2
all="ctc ctc-lm attention joint bytes deep-decoder"
models=${MODELS:-$all}
for model in $models; do
    [[ " $all " == *" $model "* ]] || { echo "no model $model; there are $all" >&2; exit 2; }
    if [[ $model == ctc-lm || $model == attention ]]; then
        [[ -d $out/ctc/run || " ${models%%"$model"*} " == *" ctc "* ]] ||
            { echo "model $model begins with ctc: MODELS=\"ctc $model\"" >&2; exit 2; }
    fi
done

python3 "$here/prepare.py" "$data/manifest_train.tsv" "$out/data"
for units in characters bytes; do
    [ -f "$out/store-$units/manifest.json" ] ||
        s2s-preprocess task=speech_to_text train="$out/data/train.tsv" valid="$out/data/valid.tsv" \
            test="$out/data/test.tsv" tokenizer=$units features.keep=waveform store="$out/store-$units"
done

for model in $models; do
    folder=$out/$model store=$out/store-characters
    mkdir -p "$folder"
    options=() search=()
    case $model in
        joint) ;;
        ctc) options=(model.decoder.layers=0 model.encoder.ctc_layers='[4]' criterion=intermediate_ctc) ;;
        ctc-lm) # the model that is there, with a language model beside it
            s2s-train --config "$here/lm.yaml" store="$store" run="$out/lm"
            ln -sfn ../ctc/run "$folder/run"
            search=(decode.beam_size=10 decode.language_model="$out/lm" decode.language_model_weight=0.6
                decode.word_reward=0.5) ;;
        attention) # begins with the encoder of CTC, so it needs fewer updates
            options=(model.ctc=false criterion=cross_entropy train.init.encoder="$out/ctc/run" train.max_updates=800) ;;
        bytes) store=$out/store-bytes options=(train.max_updates=1500 train.valid_updates=300) ;;
        deep-decoder) options=(model.encoder.layers=4 model.decoder.layers=9) ;;
    esac
    [ "$model" = ctc-lm ] || s2s-train --config "$here/config.yaml" store="$store" run="$folder/run" "${options[@]}" "$@"
    s2s-generate checkpoint="$folder/run" store="$store" split=test output="$folder/test.hyp" "${search[@]}" \
        2> "$folder/generate.log" || { cat "$folder/generate.log" >&2; exit 1; }
    s2s-score hypothesis="$folder/test.hyp" store="$store" metrics='[wer,cer]' format=json output="$folder/scores.json"
done
python3 "$here/table.py" "$out"
