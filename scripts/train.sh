#!/bin/bash
# What _run_training.sh becomes in the environment that scripts/env.sh made: as many processes of
# scripts/train.py as there are GPUs on this node, or on each node of the Slurm job; one where there
# is none. ASARM_NUM_PROCESSES=N forces N on each node, without GPUs too.
#
# The exit code is the training's: 0 finished, 2 user error, 75 stopped by a signal after a checkpoint.
# Under Slurm a job that USR1 stopped (`--signal=B:USR1@300`: before its time limit) is requeued; one
# that TERM stopped (scancel, preemption, the limit itself) is not.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stopped=75
source "$scripts/processes.sh"

# On CPUs 1.3 times as many steps a second: freed tensors are used again instead of going back to the
# kernel, and coming anew page by page, in every operation. Only glibc knows these.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-4294967296}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"

# Runs a command in the background, so that traps can, and passes on what it is asked by signal.
# Sets `status`, and `asked_by` to the signals.
run_and_forward() {
    local child found is_interrupted
    asked_by=
    "$@" &
    child=$!
    trap 'is_interrupted=1 asked_by+=" USR1"; kill -USR1 "$child" 2>/dev/null || true' USR1
    trap 'is_interrupted=1 asked_by+=" TERM"; kill -TERM "$child" 2>/dev/null || true' TERM
    status=0
    while true; do
        is_interrupted=
        found=0
        wait "$child" || found=$?
        if [[ -n $is_interrupted && $found -gt 128 ]]; then continue; fi  # by the trap, not its end
        [[ $found == 127 ]] || status=$found  # 127: waited for already
        return 0
    done
}

# Sets `command` to what trains with so many processes on each of so many nodes.
training_command() {
    local nodes=$1 processes=$2 hosts
    if ((nodes == 1)); then
        command_on_one_node "$scripts/train.py" "$processes"
        return
    fi
    share_threads "$processes"
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    accelerate_flags "$nodes" $((nodes * processes))
    flags+=(--main_process_ip "${hosts%%$'\n'*}")
    # a port of the job's own, for two may share a node; below those that the kernel hands out
    flags+=(--main_process_port $((15000 + SLURM_JOB_ID % 15000)))
    # One launcher a node, with all that the job has there. The end of one is not at once that of the
    # others, for the first has the last word; but it is in the end, for they would wait for it.
    # shellcheck disable=SC2016
    command=(
        srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1 --cpu-bind none
        --kill-on-bad-exit=0 --wait 60
        bash -c 'exec python "$0" --machine_rank "$SLURM_NODEID" "$@"'
        "$scripts/launch.py" "${flags[@]}" "$scripts/train.py"
    )
}

main() {
    local nodes=${SLURM_JOB_NUM_NODES:-1} processes command flags status asked_by
    count_processes "$@"
    if asks_for_help "$@"; then nodes=1; fi
    training_command "$nodes" "$processes"

    # outside of a batch job nothing is left to do here: signals go to the training itself
    if [[ -z ${SLURM_JOB_ID:-} || -t 0 ]]; then exec "${command[@]}" "$@"; fi

    run_and_forward "${command[@]}" "$@"
    # a signal in the first moments, when nobody listens yet, ends the process: nothing is lost
    if [[ $asked_by == *USR1* && $status == $((128 + $(kill -l USR1))) ]]; then status=$stopped; fi
    if [[ $status == "$stopped" && $asked_by == *USR1* && $asked_by != *TERM* ]]; then
        echo "asarm: stopped before the time limit: requeueing job $SLURM_JOB_ID, which goes on here"
        scontrol requeue "$SLURM_JOB_ID" || echo "asarm: submit it again: it goes on here" >&2
    fi
    exit "$status"
}

# a function, so that bash has read all of it: the checkout may change while a job runs for days
main "$@"
