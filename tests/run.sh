#!/bin/bash
# Lint, format, types, tests: `bash tests/run.sh [pytest's arguments]`, from any directory.
# The fast tier, while you work: `bash tests/run.sh -m "not slow"`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/env.sh" test
cd "$root"
# tiny models: more threads than this cost time, on a shared machine other people's too
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg

echo "ruff check"
python -m ruff check asarm scripts tests
echo "ruff format"
python -m ruff format --check asarm scripts tests
echo "mypy"
python -m mypy
# two processes, each with whole files: fixtures are made once a file
exec python -m pytest -n 2 --dist loadfile "$@"
