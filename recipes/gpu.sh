#!/bin/sh
# Every measurement that wants a GPU, in under ten minutes on one card: `sh recipes/gpu.sh runs/gpu`.
# Each has its own time limit, so none takes another's; what they print is kept in the folder that is named.
set -u
out=${1:?name a folder for the results: sh recipes/gpu.sh runs/gpu}
mkdir -p "$out"

keep() { # SECONDS NAME COMMAND...: run it within its time, show and keep what it prints
    limit=$1 name=$2
    shift 2
    echo "== $name: $*"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.txt"
}

bench="python benchmarks/bench_lm.py --backbone smollm2 --device cuda --precision bfloat16 --row-tokens 1024 --batch-rows 32"

keep 100 collect kalm collect --env clevr --preset gpu --out "$out/real"
keep 90 full $bench --rollouts 6000 --rows 4096 --turns 1
keep 90 lora $bench --rollouts 6000 --rows 4096 --turns 1 --tuning lora
keep 40 cost kalm ground --preset gpu --data "$out/real" --device cuda --dry-run
keep 40 cost-llama-2-7b kalm ground --preset paper --data "$out/real" --device cuda --dry-run \
    --set ground.tuning=lora --set ground.weights=bfloat16 --set ground.train_embeddings=false
keep 200 ground kalm ground --preset gpu --data "$out/real" --out "$out/grounded" --device cuda --set ground.epochs=0.3
keep 40 inspect kalm inspect "$out/grounded" --device cuda --rollouts 128
