#!/usr/bin/env bash
# A few steps of a search on one GPU with NaN checks and tracebacks: see --help.
set -euo pipefail

if [[ "${1:-}" == --help ]]; then
  cat << 'HELP'
debug_single_gpu.sh [CONFIG.toml] [key=value ...] [options]

Runs `darts-dist search --debug` on one GPU: the one of CUDA_VISIBLE_DEVICES, by default the first.
The words are those of darts-dist. debug.eager=true compiles nothing, so that prints and
breakpoints see values. PYTHON names the interpreter (default: .venv of this folder, or python3).
Needs a GPU and the extra: pip install 'darts-dist[cuda]'. Without them it ends with code 2.
HELP
  exit 0
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
[[ -x "$python" || -n "${PYTHON:-}" ]] || python=python3

export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}
export XLA_PYTHON_CLIENT_PREALLOCATE=false # memory as it is needed: what a step takes shows
unset JAX_PLATFORMS                        # it would win over cluster.platform

# Whether the GPU is there is asked before --debug, with which an error brings its traceback.
"$python" -c 'from darts_dist import cluster, ending
ending.finish(lambda: cluster.start(platform="cuda", cache=False) or 0)'
exec "$python" -m darts_dist search --debug cluster.platform=cuda "$@"
