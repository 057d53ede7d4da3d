"""The tables of docs/sharding.md are those of the catalogues: a test that fails shows the rows that belong there."""

from pathlib import Path

import pytest

from dlrm.hardware.catalogue import devices, networks
from dlrm.hardware.entries import Device, Network

DOCS = Path(__file__).resolve().parents[3] / "docs" / "sharding.md"


def known(value: float | None, form: str = ",g") -> str:
    return "none" if value is None else format(value, form)


def device_row(device: Device) -> str:
    price = "none" if device.price_usd_hour is None else f"{device.price_usd_hour:.2f} ({device.price_date})"
    cells = (
        device.name,
        f"{device.memory_gb:,g}, {device.memory_gb_s:,g}, {device.l2_mb:g}",
        f"{device.fp32_tflops:,g}, {device.tf32_tflops:,g}, {device.bf16_tflops:,g}",
        f"{device.link_gb_s:g} ({device.link_devices}), {device.host_gb_s:g}, {known(device.network_gb_s)}",
        f"{device.power_w:,g}, {known(device.server_power_w)}",
        price,
    )
    return f"| {' | '.join(cells)} |"


def network_row(name: str, network: Network) -> str:
    cells = (
        f"`{name}`",
        network.title,
        f"{network.device_gb_s:g}",
        f"{network.latency_us:g}, {known(network.all_reduce_us)}",
        f"{network.efficiency:g}, {network.all_reduce_efficiency:g}",
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize(
    ("heading", "rows"),
    [
        ("| device | memory GB, GB/s, L2 MB |", [device_row(device) for device in devices()]),
        ("| network | what |", [network_row(name, network) for name, network in networks().items()]),
    ],
)
def test_the_docs_have_the_rows_of_the_catalogue_and_no_others(heading, rows):
    lines = iter(DOCS.read_text().splitlines())
    assert any(line.startswith(heading) for line in lines), heading
    next(lines)  # the ruler
    found = []
    while (line := next(lines)).startswith("|"):
        found.append(line)
    assert found == rows, "the catalogue's rows are\n" + "\n".join(rows)
