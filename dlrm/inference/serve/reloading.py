"""A thread that looks for new exports."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dlrm.inference.serve.models import Models


class Reloading:
    """Looks at the paths of models every few seconds, and when it is asked to.

    Args:
        models: of the server.
        every_s: seconds between two looks; 0: only when asked.
        tell: see :meth:`dlrm.inference.serve.models.ServedModel.look`.
    """

    def __init__(self, models: Models, *, every_s: float, tell: Callable[[str, bool], None]) -> None:
        self._models, self._every_s, self._tell = models, every_s, tell
        self._asked = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Look now; from any thread, and from a signal's handler."""
        self._asked.set()

    def close(self) -> None:
        """Look no more; an export that is being loaded is left to the end of the process."""
        self._ended = True
        self._asked.set()

    def _run(self) -> None:
        while True:
            asked = self._asked.wait(self._every_s or None)
            self._asked.clear()
            for model in self._models.values():
                if self._ended:
                    return
                model.look(self._tell, again=asked)
