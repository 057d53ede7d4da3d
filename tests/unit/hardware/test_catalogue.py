import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dlrm.errors import ConfigError
from dlrm.hardware.catalogue import devices, known_device, networks, read_devices, reference_points

ROOT = Path(__file__).resolve().parents[3]
TRAIN_SAMPLES = 4_195_197_692  # of Criteo Terabyte, days 0 to 22

PUBLISHED = [  # GPUs, device, million samples/s a GPU in training, global batch: read from the rounds' logs by hand
    (8, "H100", "v4.1", "NVIDIA", 1.96, 55_296),
    (64, "H100", "v4.1", "NVIDIA", 0.90, 135_168),
    (128, "H100", "v4.1", "NVIDIA", 0.60, 135_168),
    (8, "H200", "v5.0", "HPE", 2.21, 65_536),
    (16, "H200", "v5.0", "HPE", 1.22, 65_536),
    (32, "H200", "v5.0", "HPE", 1.15, 131_200),
    (8, "B200", "v5.0", "NVIDIA", 3.21, 55_296),
    (8, "A100 80GB", "v3.0", "Dell", 0.97, 55_296),
    (64, "A100 80GB", "v4.0", "JuniperNetworks", 0.42, 135_168),
    (8, "GB200", "v5.0", "NVIDIA", 3.33, 55_296),
    (64, "GB200", "v5.0", "NVIDIA", 1.47, 135_168),
    (8, "GB300", "v6.0", "NVIDIA", 3.56, 55_296),
    (64, "GB300", "v6.0", "NVIDIA", 1.67, 135_168),
]


def test_no_entry_of_the_catalogue_hides_another():
    for device in devices():
        assert known_device(device.name) is device


def test_links_and_networks_of_devices_are_in_the_catalogue_and_as_fast():
    for device in devices():
        assert networks()[device.link].kind == "nvlink"
        assert device.link_gb_s <= networks()[device.link].device_gb_s
        if device.network is not None:
            assert device.network_gbit_s == networks()[device.network].device_gbit_s


def test_rates_are_dense_and_in_the_order_of_the_bits():
    for device in devices():
        assert device.fp32_tflops < device.tf32_tflops
        assert device.bf16_tflops == pytest.approx(2 * device.tf32_tflops, rel=0.002)  # sheets round


def test_a_device_in_its_server_takes_more_than_alone():
    for device in devices():
        assert device.server_power_w is None or device.power_w < device.server_power_w < 2.1 * device.power_w


@pytest.mark.parametrize(("gpus", "device", "round_name", "submitter", "millions", "batch"), PUBLISHED)
def test_the_published_speeds_are_there(gpus, device, round_name, submitter, millions, batch):
    (point,) = [
        point
        for point in reference_points()
        if (point.gpus, point.device, point.round, point.submitter) == (gpus, device, round_name, submitter)
    ]
    assert point.samples_s_per_gpu == pytest.approx(millions * 1e6, abs=0.006e6)
    assert point.global_batch_size == batch
    assert point.step_ms == pytest.approx(1000 * batch / gpus / (millions * 1e6), rel=0.01)


def test_reference_points_name_devices_and_networks_of_the_catalogues():
    for point in reference_points():
        device = known_device(point.device)
        assert device is not None
        assert device.name == point.device
        assert point.network is None or point.network in networks()
        assert point.hosts * point.gpus_per_host == point.gpus
        assert point.network is not None or point.hosts == 1 or point.gpus <= device.link_devices
    names = [point.name for point in reference_points()]
    assert len(set(names)) == len(names)


def test_time_to_target_and_speed_of_a_reference_point_give_the_part_of_an_epoch_that_it_takes():
    """MLPerf's reference converges after 0.793 epochs; large batches need more, small ones less."""
    for point in reference_points():
        epochs = point.samples_s_with_evaluation * 60 * point.minutes / TRAIN_SAMPLES
        assert 0.68 < epochs < 0.98, point.name
        assert point.samples_s_with_evaluation < point.samples_s


def test_every_entry_has_a_source_that_names_a_document_or_an_address():
    for entry in (*devices(), *networks().values(), *reference_points()):
        assert re.search(r"sheet|issue|https://|page|cloud\.google\.com|capacity|pull request|DPS|\.com", entry.source)
    for point in reference_points():
        assert re.fullmatch(
            r"https://github\.com/mlcommons/training_results_v\d\.\d/tree/\w+/\S+/dlrm_dcnv2", point.source
        )


def test_entries_are_read_once_and_cannot_be_changed():
    assert devices() is devices()
    with pytest.raises(ValidationError, match="frozen"):
        devices()[0].memory_gb = 1
    with pytest.raises(TypeError):
        networks()["mine"] = None


def entry_of_h100() -> dict:
    (values,) = [
        values
        for values in yaml.safe_load((ROOT / "dlrm/hardware/devices.yaml").read_text())
        if values["words"] == ["H100"]
    ]
    return values


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_file_of_one_s_own_is_read_like_the_catalogue(tmp_path):
    mine = entry_of_h100() | {"words": ["H20"], "memory_gb_s": 4000}
    (device,) = read_devices(written(tmp_path / "mine.yaml", [mine]))
    assert (device.name, device.memory_gb_s, device.network_gb_s) == ("H20", 4000, 50)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"memory_gbs": 1},
            r"entry 1 \(H100\)\.memory_gbs: is no key of this catalogue; did you mean memory_gb_s\?",
        ),
        ({"memory_gb": "much"}, r"entry 1 \(H100\)\.memory_gb: is 'much': input should be a valid number"),
        ({"memory_gb": True}, r"entry 1 \(H100\)\.memory_gb: is True: input should be a valid number"),
        ({"memory_gb": -1}, r"entry 1 \(H100\)\.memory_gb: is -1: input should be greater than 0"),
        ({"network": None}, r"entry 1 \(H100\): network and network_gbit_s go together: give both or neither"),
        ({"price_date": None}, r"entry 1 \(H100\): price_usd_hour needs a price_date and a price_source"),
        ({"unchecked": ["price"]}, r"entry 1 \(H100\): unchecked: price is no figure of this entry"),
        (
            {"memory_gb": ...},
            r"entry 1 \(H100\)\.memory_gb: is missing; an entry has every key, null where nothing is known",
        ),
    ],
)
def test_what_is_wrong_with_an_entry_is_one_line_that_names_entry_and_key(tmp_path, change, told):
    values = {key: value for key, value in (entry_of_h100() | change).items() if value is not ...}
    path = written(tmp_path / "mine.yaml", [values])
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: {told}$"):
        read_devices(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("words: [H20]\n", "holds no list of entries; each begins with a dash"),
        ("- 1\n", "entry 1: is 1, not an entry with keys and values"),
        ("- {words: [H20\n", "is not valid YAML: "),
    ],
)
def test_what_is_no_catalogue_is_one_line(tmp_path, text, told):
    with pytest.raises(ConfigError, match=re.escape(told)) as raised:
        read_devices(written(tmp_path / "mine.yaml", text))
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_devices(tmp_path / "none.yaml")


def test_an_installed_package_has_the_catalogues():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["dlrm"]
    found = [path.relative_to(ROOT / "dlrm") for path in (ROOT / "dlrm").rglob("*.yaml")]
    assert len(found) == 3
    assert all(any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns) for path in found)
