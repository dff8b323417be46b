# shellcheck shell=bash
# Sourced by train.sh and evaluate.sh: how many processes there are to be, and what starts them.

fail() {
    echo "error: $*" >&2
    exit 2
}

# The NVIDIA GPUs that CUDA would see, without the seconds that asking torch takes.
count_gpus() {
    local all=0 count=0 entry
    if command -v nvidia-smi >/dev/null; then
        all=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ') || true
    else
        all=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) || true  # a container that lacks the tool
    fi
    if [[ -z ${CUDA_VISIBLE_DEVICES+set} ]]; then
        echo "$all"
        return
    fi
    for entry in ${CUDA_VISIBLE_DEVICES//,/ }; do  # numbers, or names such as GPU-8932f937
        # CUDA takes none from the first one on that does not exist
        if [[ $entry =~ ^[0-9]+$ ]]; then
            ((entry < all)) || break
        else
            [[ $all -gt 0 && $entry =~ ^(GPU|MIG)- ]] || break
        fi
        count=$((count + 1))
    done
    echo "$count"
}

asks_for_help() {
    local argument
    for argument; do
        if [[ $argument == -h || $argument == --help ]]; then return 0; fi
    done
    return 1
}

# Sets `processes`, of each node: one for each GPU, or what ASARM_NUM_PROCESSES says; one for --help.
count_processes() {
    processes=${ASARM_NUM_PROCESSES:-$(count_gpus)}
    [[ $processes =~ ^[0-9]{1,4}$ ]] ||
        fail "ASARM_NUM_PROCESSES is '$processes'; expected the number of processes on each node"
    processes=$((10#$processes > 1 ? 10#$processes : 1))
    if asks_for_help "$@"; then processes=1; fi
}

# Has so many processes share the node's cores.
share_threads() {
    local threads=$(($(nproc) / $1))
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 1 ? threads : 1))}"
}

# Sets `flags`: all that `accelerate config` would ask, for so many nodes and processes in all.
accelerate_flags() {
    flags=(
        --multi_gpu --num_machines "$1" --num_processes "$2"
        --gpu_ids all --mixed_precision no --dynamo_backend no
    )
}

# Sets `command` to what runs a script in so many processes on this node.
command_on_one_node() {
    local script=$1 processes=$2 flags
    if ((processes == 1)); then
        command=(python "$script")
        return
    fi
    share_threads "$processes"
    accelerate_flags 1 "$processes"
    flags+=(--machine_rank 0 --main_process_port 0)
    command=(python "$scripts/launch.py" "${flags[@]}" "$script")
}
