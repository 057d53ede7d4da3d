"""``dlrm_main.py evaluate``: a checkpoint's figures on any data, of all samples and of slices of them.

``found.py`` is the checkpoint with the configuration, ``model.py`` the model with its weights, ``columns.py`` and
``slicing.py`` divide samples into slices, ``sliced.py`` scores these. ``evaluation.py`` is what was found, ``text.py`` and
``written.py`` tell it.
"""
