"""``dlrm_main.py checkpoint ...``: looking at checkpoints, verifying, comparing and exporting them, importing weights.

``commands`` and ``importing`` are the commands; ``paths`` finds checkpoints, ``format`` makes what is in them fit to print.
Whatever a checkpoint or a file holds is printed escaped, and none of it is unpickled as anything but tensors.
"""
