"""Build the image and train inside it, as its own user and as one that it does not know.

    .venv/bin/python -m scripts.try_image [--target cpu] [--engine docker|podman|buildah] [--debootstrap] [-- build options]

Printed are how long the build took, size and layers of the image, and for each trial who ran and how it ended: doctor; two
ranks that train; SIGTERM, after which the checkpoint has to be there. Exit code 0 if all was as it should be.

buildah needs no daemon, and with chroot isolation none of what containers need of a kernel, so it runs inside containers
and small machines too (as root); it gives no network and process namespaces of their own. Where no registry is reached,
--debootstrap makes a base of Debian's packages first (1 to 3 minutes). What pip needs here is a build option too:
-- --volume /etc/pip.conf:/etc/pip.conf:ro.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "dlrm:tried"
OWN_BASE = "localhost/dlrm-base:bookworm"
UNKNOWN_USER = "12345:12345"
TRAIN = (
    "python launch/elastic.py --standalone --nproc-per-node 2 dlrm_main.py train --config configs/quickstart.yaml"
    " --run.name tried --run.overwrite true"
)
# The same for every engine, so the signal comes from within.
STOPPED = f"""
{TRAIN} --train.epochs 100 > /tmp/tried.log 2>&1 & launcher=$!
until grep -q 'steps  loss' /tmp/tried.log || ! kill -0 $launcher; do sleep 1; done
kill -TERM $launcher; wait $launcher; code=$?
tail -n 2 /tmp/tried.log; echo "exit code $code"; [ $code = 143 ] && test -e runs/tried/checkpoints/step_*/COMMITTED
"""
TRIALS = {
    "doctor": "id && touch runs/.written && rm runs/.written && python dlrm_main.py doctor | tail -n 6",
    "two ranks train": f"{TRAIN} --train.max_steps 100 | tail -n 12",
    "SIGTERM saves": STOPPED,
}


class Engine:
    """docker or podman: each trial is a container of its own."""

    def __init__(self, program: Sequence[str]) -> None:
        self.program = list(program)

    def build(self, target: str, options: Sequence[str]) -> None:
        self._do("build", "--target", target, "--tag", IMAGE, *options, str(ROOT))

    def describe(self) -> str:
        image = json.loads(self._ask("inspect", IMAGE))[0]
        return (
            f"{image['Size'] / 1e9:.2f} GB in {len(image['RootFS']['Layers'])} layers, user {image['Config']['User']}"
        )

    def trial(self, script: str, user: str) -> int:
        options = ["--rm", "--shm-size=1g", *(["--user", user] if user else [])]
        return self._do("run", *options, IMAGE, "bash", "-o", "pipefail", "-c", script, check=False)

    def _do(self, *words: str, check: bool = True) -> int:
        return subprocess.run([*self.program, *words], check=check).returncode

    def _ask(self, *words: str) -> str:
        return subprocess.run([*self.program, *words], check=True, capture_output=True, text=True).stdout


class Buildah(Engine):
    """buildah with chroot isolation."""

    def build(self, target: str, options: Sequence[str]) -> None:
        self._do("bud", "--isolation", "chroot", "--layers", "--target", target, "--tag", IMAGE, *options, str(ROOT))

    def describe(self) -> str:
        image = json.loads(self._ask("inspect", "--type", "image", IMAGE))["OCIv1"]
        size = json.loads(self._ask("images", "--json", IMAGE))[0]["size"]
        return f"{size} in {len(image['rootfs']['diff_ids'])} layers, user {image['config']['User']}"

    def trial(self, script: str, user: str) -> int:
        container = self._ask("from", IMAGE).strip()
        try:
            options = ["--isolation", "chroot", *(["--user", user] if user else [])]
            return self._do("run", *options, container, "--", "bash", "-o", "pipefail", "-c", script, check=False)
        finally:
            self._ask("rm", container)

    def make_base(self) -> None:
        """An image of Debian's packages with Python, under the name :data:`OWN_BASE`."""
        if not subprocess.run([*self.program, "inspect", OWN_BASE], capture_output=True).returncode:
            return
        with tempfile.TemporaryDirectory(prefix="dlrm_base_") as folder:
            system = Path(folder) / "system"
            packages = "--include=python3.11,python3.11-venv,python3-distutils,ca-certificates"
            subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", system], check=True)
            for name in ("python", "python3"):
                (system / "usr/bin" / name).unlink(missing_ok=True)
                (system / "usr/bin" / name).symlink_to("python3.11")
            container = self._ask("from", "scratch").strip()
            self._do("add", "--quiet", container, str(system), "/")
        self._do("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self._do("commit", "--quiet", "--rm", container, OWN_BASE)


def find_engine(asked: str, store: str) -> Engine:
    """The one asked for, or the first whose answer shows that it works here."""
    for name in [asked] if asked else ["docker", "podman", "buildah"]:
        if shutil.which(name) is None or subprocess.run([name, "info"], capture_output=True).returncode:
            continue
        if name == "buildah":
            return Buildah([name, *(["--root", f"{store}/store", "--runroot", f"{store}/run"] if store else [])])
        return Engine([name])
    sys.exit(f"try_image: {asked or 'docker, podman and buildah'}: not installed, or not working here")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cpu", help="cpu, or test, in which the same is tried")
    parser.add_argument("--engine", default="", choices=["", "docker", "podman", "buildah"])
    parser.add_argument("--debootstrap", action="store_true", help="buildah: on a base of Debian's packages")
    parser.add_argument("--store", default="", help="buildah: folder for images, instead of the system's")
    parser.add_argument("options", nargs="*", help="of the engine's build, after --")
    arguments = parser.parse_args()
    engine = find_engine(arguments.engine, arguments.store)
    options = list(arguments.options)
    if arguments.debootstrap:
        if not isinstance(engine, Buildah):
            parser.error("--debootstrap is for --engine buildah")
        engine.make_base()
        options += ["--pull-never", "--build-arg", f"BASE_IMAGE={OWN_BASE}"]
    began_s = time.monotonic()
    engine.build(arguments.target, options)
    print(f"== built in {time.monotonic() - began_s:.0f} s: {engine.describe()}", flush=True)
    wrong = []
    for user in ("", UNKNOWN_USER):
        for name, script in TRIALS.items():
            title = f"{name}, as {user or 'the user of the image'}"
            print(f"== {title}", flush=True)
            began_s = time.monotonic()
            code = engine.trial(script, user)
            print(f"== {title}: exit code {code} after {time.monotonic() - began_s:.0f} s", flush=True)
            wrong += [title] if code else []
    print("== all as it should be" if not wrong else f"== wrong: {'; '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
