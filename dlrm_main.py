#!/usr/bin/env python3
"""The command: parse, run, turn errors into one line and an exit code.

    dlrm_main.py train --config configs/quickstart.yaml [--section.key value | section.key=value ...]   --help: all options
    dlrm_main.py evaluate RUN | export RUN FOLDER | quantise | predict | serve | bench-inference     from a run to answers
    dlrm_main.py study | diagnose [RUN]     which configuration is better; why one learns nothing, or too much
    dlrm_main.py benchmark | scale | report | plan | calibrate     how fast a configuration trains, and how it scales
    dlrm_main.py preprocess | pack | inspect | materialize | synthesize     raw files to packed data sets
    dlrm_main.py checkpoint ... | status | doctor | import-flags     what was saved, what goes on; see --help

Exit codes: 0 done, 2 what the user can mend (a line on standard error), 130 interrupted, 143 SIGTERM, 129 SIGHUP, 1 else.
"""

from __future__ import annotations

from dlrm import signals, streams

if __name__ == "__main__":
    streams.open_closed()
    streams.see_who_watches()
    signals.take_early()  # before all else: what comes earlier ends the process without a word

import sys

from dlrm.command import failure


def main(words: list[str]) -> int:
    """Run the command and return its exit code; errors are :func:`dlrm.command.failure.leave`'s to report."""
    # Imports are here because --help, --print-config and mistakes in a config need neither torch nor a second's wait, and
    # because a package that is missing should be one line as well.
    from dlrm.command import arguments

    request = arguments.parse(words)
    if request.command == "doctor":
        from dlrm.command import doctor

        signals.raise_on_ctrl_c()
        return doctor.run()
    config = request.config()
    if request.print_config:
        from dlrm.config import dump_config

        print(dump_config(config), end="")  # noqa: T201
        return 0
    from dlrm.command.run import run

    run(config)
    return 0


if __name__ == "__main__":
    failure.follow_launcher()
    try:
        code = main(sys.argv[1:])
    except BaseException as error:  # whatever it is, this process has to leave in an orderly way
        failure.leave(error)
    # As after an error, without the interpreter's tear-down: gloo's threads outlive the process group, and one that is
    # still letting go of a finished collective then would abort a rank that has done all its work.
    failure.leave(SystemExit(code))
