"""No hook is without a test: what is private elsewhere and named in the code is found by reading the code."""

from tests.unit.contracts import (
    test_id_exchange,
    test_launcher,
    test_operators,
    test_others,
    test_programs,
    test_regions,
    test_replicas,
    test_tables,
)
from tests.unit.contracts.hooks import HELD, private_names_of_others

# They enter their hooks when they are imported.
MODULES = (
    test_id_exchange,
    test_launcher,
    test_operators,
    test_others,
    test_programs,
    test_regions,
    test_replicas,
    test_tables,
)


def test_every_private_name_that_is_taken_from_a_library_has_a_test() -> None:
    found = private_names_of_others()
    assert {"_emb_modules", "_shard", "_monitor_workers"} <= found.keys()  # it does find them
    without = {name: place for name, place in found.items() if name not in HELD}
    assert not without, f"give these hooks a test beside {[module.__name__ for module in MODULES]}: {without}"
