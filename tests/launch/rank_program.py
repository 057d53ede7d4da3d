"""What the launch tests start as ranks: joins gloo, then fails as its argument says (or as STAND_IN_MODE says).

Modes: alike (every rank finds the same user error), user, bug, killed, exit (rank 1 does it while the others wait in an
all-reduce), apart (ranks call different collectives), killed_once (only before the ranks are started again), asked (all
wait for SIGUSR1), wait (all wait), alone (goes on waiting until it is the only rank), stubborn (all wait, whatever SIGTERM
says), saving (all wait for SIGTERM, and leave as after a save), ok.
"""

import gc
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dlrm.command.failure import follow_launcher, leave
from dlrm.errors import DataError, StoppedBySignal
from dlrm.signals import SignalWatch


def main() -> None:
    follow_launcher()
    mode = os.environ.get("STAND_IN_MODE") or sys.argv[1]
    error = DataError("day_0.tsv", "'x' is not an integer", row=3, column="I1")
    if mode == "alike":
        raise error
    gc.disable()  # importing torch is the most of what it does, and makes no garbage
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=2 if mode == "apart" else 1800))
    os.write(1, f"up {dist.get_rank()} {os.getpid()}\n".encode())  # at once: print would mix the ranks' lines
    if mode == "asked":
        time.sleep(1)  # if SIGUSR1 was passed on now, it would end the rank
        asked: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
        os.write(1, f"ready {dist.get_rank()} {os.getpid()}\n".encode())
        while not asked:
            time.sleep(0.01)
        os.write(1, f"asked {dist.get_rank()}\n".encode())
    if mode == "apart" and dist.get_rank() == 1:
        dist.broadcast(torch.ones(4), src=0)
    if mode == "alone" and dist.get_world_size() > 1:
        dist.all_reduce(torch.ones(4))
        dist.recv(torch.ones(4), src=1 - dist.get_rank())
    if mode == "stubborn":
        told = f"told {dist.get_rank()} {os.getpid()}\n".encode()
        signal.signal(signal.SIGTERM, lambda number, _: os.write(1, told))
        os.write(1, f"ready {dist.get_rank()} {os.getpid()}\n".encode())
        time.sleep(120)
    if mode == "saving":
        with SignalWatch(announce=False) as signals:
            os.write(1, f"ready {dist.get_rank()} {os.getpid()}\n".encode())
            while not signals.stop:
                time.sleep(0.01)
        raise StoppedBySignal(signals.stop, step=3)
    if dist.get_rank() == 1:
        if mode == "user":
            raise error
        if mode == "bug":
            raise ValueError("boom")
        if mode == "killed" or (mode == "killed_once" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"):
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "exit":
            os._exit(3)
        if mode == "wait":
            time.sleep(120)
    if mode != "ok":
        dist.all_reduce(torch.ones(4))
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        leave(error)
