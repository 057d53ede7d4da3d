#!/usr/bin/env bash
# A Ray cluster of two workers on this machine trains through `torchx run -s ray`, and the loss is compared with two ranks that
# one launcher starts.
#
#   scripts/try_ray.sh [FOLDER]     holds the environment (Ray is installed from PyPI) and the runs; a temporary one unless given
#
# PORT=6479 and DASHBOARD=8365 are the cluster's, PYTHON names an interpreter with the packages of this project (.venv/bin/python).
# Workers get addresses of their own, as hosts have them. The processes of the cluster end with this script.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
folder=${1:-$(mktemp -d -t try_ray_XXXX)}
port=${PORT:-6479} dashboard=127.0.0.1:${DASHBOARD:-8365}
ray_version=2.60.*
python=${PYTHON:-$root/.venv/bin/python}
venv=$folder/venv
export PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0

say() { printf '== %s\n' "$*"; }

mkdir -p "$folder"
if [ ! -x "$venv/bin/ray" ]; then
    say "installing Ray $ray_version beside the packages of $python"
    "$python" -m venv "$venv"
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/dlrm.pth"
    "$venv/bin/pip" install --quiet "ray[default]==$ray_version"
    install -m 755 /dev/stdin "$venv/bin/torchx" <<EOF
#!$venv/bin/python
from torchx.cli.main import main
main()
EOF
fi
export PATH=$venv/bin:$PATH

say "what torchx hands to Ray"
python -m pytest -p no:cacheprovider --basetemp "$folder/tests" tests/launch/test_requests.py tests/launch/test_profiles.py -k ray

nodes=()
node() { # LOG OPTION...: in a process group of its own, by which it is ended
    setsid ray start --block --disable-usage-stats --object-store-memory 100000000 "${@:2}" > "$folder/$1.log" 2>&1 &
    nodes+=($!)
}
wait_for() { # PROCESS COMMAND...: until the command succeeds; fails when the process has ended
    until "${@:2}" > /dev/null 2>&1; do
        kill -0 "$1" 2> /dev/null || return 1
        sleep 1
    done
}
has_workers() { [ "$(ray status --address "127.0.0.1:$port" | grep -c '^ 1 node_')" -gt "$1" ]; }
answers() { python -c "import socket; socket.create_connection(('127.0.0.1', ${dashboard#*:}))"; }
end() {
    for group in "${nodes[@]}"; do kill -TERM -- "-$group" 2> /dev/null || true; done
    wait 2> /dev/null || true
}
trap end EXIT
trap 'exit 143' TERM INT

say "a head without cores and two workers of one core"
node head --head --node-ip-address 127.0.0.1 --port "$port" --dashboard-port "${dashboard#*:}" --num-cpus 0 --temp-dir "$folder/ray"
wait_for "${nodes[0]}" answers || { cat "$folder/head.log"; exit 1; }
for worker in 1 2; do
    for try in 1 2 3; do # on a busy machine a worker may find the head too slow
        node "worker_$worker" --address "127.0.0.1:$port" --node-ip-address "127.0.0.$((worker + 1))" --num-cpus 1
        wait_for "${nodes[-1]}" has_workers "$worker" && break
        [ "$try" -lt 3 ] || { cat "$folder/worker_$worker.log"; exit 1; }
    done
done
ray status --address "127.0.0.1:$port" | sed -n '/^Active/,/^Pending/p; / CPU$/p'

train=(--config configs/quickstart.yaml --train.max_steps 60 --logging.every_steps 10 --run.overwrite true)
on_ray=(-s ray -cfg "dashboard_address=$dashboard" --workspace . --wait components/dlrm.py:train -j 2x1 --gpu 0 --cpu 1)
say "torchx run -s ray ... components/dlrm.py:train -j 2x1"
began=$SECONDS
torchx --log_level WARNING run "${on_ray[@]}" --run_dir "$folder/runs" "${train[@]:0:2}" -- "${train[@]:2}" --run.name ray
say "trained in $((SECONDS - began)) s"

say "a mistake of the user ends the job once, with its line"
if handle=$(torchx --log_level ERROR run "${on_ray[@]}" --run_dir "$folder/runs" "${train[@]:0:2}" -- --train.max_steps x); then
    echo "the job did not fail"
    exit 1
fi
ray job logs --address "http://$dashboard" "${handle##*:"${dashboard#*:}"-}" > "$folder/mistake.log"
grep "train.max_steps: is 'x', must be a valid integer" "$folder/mistake.log"

say "the same with two ranks of one launcher"
python launch/elastic.py --standalone --nproc-per-node 2 dlrm_main.py train "${train[@]}" --run.dir "$folder/runs" --run.name one_host \
    > "$folder/one_host.log" 2>&1

say "losses"
python - "$folder/runs" <<'EOF'
import json, sys
from pathlib import Path

runs = [
    {entry["step"]: entry["loss"] for entry in map(json.loads, (Path(sys.argv[1]) / name / "metrics.jsonl").open()) if "loss" in entry}
    for name in ("ray", "one_host")
]
assert runs[0] and runs[0].keys() == runs[1].keys(), runs
worst = max(abs(runs[0][step] - runs[1][step]) for step in runs[0])
print(f"{len(runs[0])} losses up to step {max(runs[0])} differ by {worst:.1e} at most")
sys.exit(worst > 1e-6)
EOF
