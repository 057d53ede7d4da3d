"""Some hundred malformed requests; ``scripts/fuzz_server.py`` sends many more."""

from scripts.fuzz_server import fuzz
from tests.support.serving import ServerHere


def test_malformed_requests_are_the_clients_mistakes(tiny_model, capfd):
    with ServerHere({"default": tiny_model}) as server:
        found = fuzz(server.port, seed=20261130, count=400)
    assert found.problems == []
    assert len(found.table) > 15
    assert "Traceback" not in "".join(capfd.readouterr())
