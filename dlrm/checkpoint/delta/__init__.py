"""Delta checkpoints: of the tables only the rows that training has changed, and what restores the state from them.

``format`` says what a delta holds, ``collect`` makes that of a state, ``chain`` opens what it depends on, ``reader``
restores it, ``watch`` looks after what the next one will depend on.
"""
