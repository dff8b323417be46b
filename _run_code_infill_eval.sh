#!/bin/bash
#SBATCH --job-name=asarm-infill-code --requeue --open-mode=append
set -euo pipefail
# sbatch runs a copy of this file from a spool folder: then Slurm knows where the file itself is
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
if [[ ! -e $root/scripts/env.sh && -n ${SLURM_JOB_ID:-} ]]; then
    root=$(scontrol show job "$SLURM_JOB_ID" | sed -n '/^ *Command=/{s///;s|/_run_.*||p;}') || true
    root=${root%%$'\n'*}  # an array job is shown task by task
    [[ -e $root/scripts/env.sh ]] || root=${SLURM_SUBMIT_DIR:-}
fi
if [[ ! -e $root/scripts/env.sh ]]; then
    echo "$0: '$root' is no checkout of asarm: submit from the checkout" >&2
    exit 2
fi
source "$root/scripts/env.sh"
exec bash "$root/scripts/evaluate.sh" infill_code.py "$@"
