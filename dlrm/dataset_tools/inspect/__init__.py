"""What is in a packed data set, for a person: tables and pictures; and whether all of it is as it should be.

``sample`` says which rows are looked at, ``skew`` and ``figures`` what they say, ``tables`` and ``pictures`` show it,
``verify`` reads everything, ``job`` is the command.
"""

from dlrm.dataset_tools.inspect.job import run_inspect

__all__ = ["run_inspect"]
