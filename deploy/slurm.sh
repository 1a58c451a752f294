#!/usr/bin/env bash
# Starts Ray on the nodes of a Slurm allocation, runs a job on them, and ends Ray again.
# The arguments are those of `orchestrator run`:
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=96 deploy/slurm.sh jobs/full_pipeline.yaml
# Submit it in the folder of the job, with `orchestrator` and `ray` in PATH on each node.
#SBATCH --job-name=orchestrator
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
# 5 minutes before the time limit: write checkpoints, and queue the job again.
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=orchestrator-%j.log
set -euo pipefail

# Two jobs may share a node, so ports and folders depend on the job's id. The path is short because
# Ray's sockets are in it, and their paths may have only 107 bytes. Ray's workers use the ports up
# to 19999.
port=$((20000 + SLURM_JOB_ID % 3000 * 4))
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID"
# Only processes of this job may use its Ray.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN
# The time for the last checkpoints, in seconds; less than in --signal.
export RAY_JOB_STOP_WAIT_TIME_S=240
head_ip="$(python -c 'import ray; print(ray.util.get_node_ip_address())')"
export head_ip port

on_each_node=(srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES"
    --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --overlap)

# This script runs on the first node, which is therefore the head. The other nodes wait for it.
# shellcheck disable=SC2016  # each node expands it
start_ray='
if ((SLURM_PROCID == 0)); then
    exec ray start --head --node-ip-address="$head_ip" --port="$port" \
        --dashboard-port="$((port + 1))" --dashboard-agent-listen-port="$((port + 2))" \
        --ray-client-server-port="$((port + 3))" --num-cpus="$SLURM_CPUS_PER_TASK" \
        --disable-usage-stats --block
fi
until (: < "/dev/tcp/$head_ip/$port") 2> /dev/null; do sleep 1; done
exec ray start --address="$head_ip:$port" --dashboard-agent-listen-port="$((port + 2))" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block'

# Without this wait, a job that needs all nodes would be refused.
wait_for_nodes='
import os, sys, time, ray
address, num_nodes, ray_step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
deadline = time.monotonic() + 900
joined = 0
while joined < num_nodes:
    try:
        os.kill(ray_step, 0)
    except ProcessLookupError:
        sys.exit("error: Ray has ended; see above")
    if time.monotonic() > deadline:
        sys.exit(f"error: only {joined} of {num_nodes} nodes joined Ray within 15 minutes")
    time.sleep(1)
    try:
        ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        joined = sum(node["Alive"] for node in ray.nodes())
    except (ConnectionError, RuntimeError):
        pass  # the head is still starting'

end_ray() {
    trap '' USR1 USR2
    # Not `ray stop`: it would end the Ray of other jobs on the node, too.
    kill "$ray_step" 2> /dev/null || true
    wait "$ray_step" 2> /dev/null || true
    "${on_each_node[@]}" rm -rf -- "$RAY_TMPDIR"
}

run=
signal=
# shellcheck disable=SC2329  # the traps call it
interrupt() {
    signal="$1"
    if [[ -n $run ]]; then kill -TERM "$run" 2> /dev/null || true; fi
}
trap 'interrupt USR1' USR1 # from --signal
trap 'interrupt USR2' USR2 # from a user: scancel --batch --signal=USR2 JOBID

"${on_each_node[@]}" bash -c "$start_ray" &
ray_step=$!
trap end_ray EXIT
python -c "$wait_for_nodes" "$head_ip:$port" "$SLURM_JOB_NUM_NODES" "$ray_step"

code=130
# A signal may have arrived before the run started.
if [[ -z $signal ]]; then
    python -m orchestrator run "$@" --address "$head_ip:$port" &
    run=$!
    code=0
    wait "$run" || code=$?
    # The signal ended `wait`, not the run.
    if [[ -n $signal ]]; then
        code=0
        wait "$run" || code=$?
    fi
fi
if [[ $signal == USR1 && $code == 130 ]]; then
    end_ray
    trap - EXIT
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
