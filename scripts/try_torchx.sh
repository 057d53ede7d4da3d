#!/usr/bin/env bash
# The component's tests, and a training on this machine, with the newest nightly of torchx beside the pinned 0.7.0.
#
#   scripts/try_torchx.sh [FOLDER]     holds the environment (torchx-nightly is installed from PyPI); a temporary one unless given
#
# VERSION=2026.10.26 takes another nightly than the newest, PYTHON names an interpreter with the packages of this project
# (.venv/bin/python). Nightlies have no ray and no aws_batch.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d -t try_torchx_XXXX)}
python=${PYTHON:-$PWD/.venv/bin/python}
venv=$folder/venv
export PYTHONDONTWRITEBYTECODE=1

"$python" -m venv "$venv"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/dlrm.pth" # found after what is installed here
"$venv/bin/pip" install --quiet --no-deps --pre "torchx-nightly${VERSION:+==$VERSION}"
"$venv/bin/python" -c 'import torchx; print("== torchx", torchx.__version__, "in", torchx.__path__[0])'
case $("$venv/bin/python" -c 'import torchx; print(torchx.__path__[0])') in "$site"/*) ;; *) echo "not the nightly" >&2; exit 1 ;; esac

"$venv/bin/python" -m pytest -p no:cacheprovider --basetemp "$folder/tests" tests/launch/test_component.py tests/launch/test_preflight.py

echo "== torchx run -s local_cwd"
"$venv/bin/torchx" run -s local_cwd components/dlrm.py:train -j 2 --config configs/quickstart.yaml --run_dir "$folder/runs" -- \
    --train.max_steps 3 --evaluation.every_steps null --run.overwrite true
