"""What checkpoints are to training.

``state`` names the tensors of an engine and ``load`` fills them from a checkpoint, both without a trainer. ``provider`` and
``delta_state`` say what each checkpoint of a run holds, ``train_state`` and ``metadata`` what it says beside tensors,
``hook`` when it is saved; ``resume`` finds where training begins, ``run_checkpoints`` puts all of them together for a run.
"""
