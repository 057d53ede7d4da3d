"""``dlrm_main.py status``: what becomes of a run, by its folder alone; free of torch, so that it answers at once.

:mod:`~dlrm.run.status.files` reads what is there, damaged or half written as it may be; :mod:`~dlrm.run.status.ages` tells
how long ago a rank was heard, whatever the clocks say; :mod:`~dlrm.run.status.endings` what ended a start;
:mod:`~dlrm.run.status.hangs` who keeps the others waiting. :mod:`~dlrm.run.status.judge` puts them together, and
:mod:`~dlrm.run.status.text` says it.
"""
