#!/bin/bash
# What the launchers of evaluations become in the environment that scripts/env.sh made:
# `evaluate.sh SCRIPT.py [flags]`, in as many processes as there are GPUs on this node; one where there
# is none. ASARM_NUM_PROCESSES=N forces N, without GPUs too. Tasks of `sbatch --array` share the work.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$scripts/processes.sh"

main() {
    local script=$1 processes command
    shift
    count_processes "$@"
    command_on_one_node "$scripts/$script" "$processes"
    exec "${command[@]}" "$@"
}

main "$@"
