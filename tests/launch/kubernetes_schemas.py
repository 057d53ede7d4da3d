"""Whether Kubernetes would take what is written here: its own schemas and, where it is at hand, Volcano's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
VOLCANO = ROOT.parent / "shared" / "launch" / "volcano-jobs-crd.yaml"
VERSION = "1.37"  # of Kubernetes, one that kubernetes-validate has


def complaints(thing: dict[str, Any]) -> list[str]:
    """What Kubernetes has to say against an object of its own (Pod, Job, Service, ...), unknown fields included."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    try:
        validate.validate(thing, VERSION, strict=True)
    except validate.ValidationError as error:
        return [f"{'/'.join(map(str, error.path))}: {error.message}"]
    return []


def pod_of(template: dict[str, Any]) -> dict[str, Any]:
    """The pod that a template describes."""
    metadata = {**template.get("metadata", {}), "name": "pod"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def complaints_of_volcano(job: dict[str, Any]) -> list[str]:
    """What the published schema of Volcano's Job has to say against one."""
    if not VOLCANO.exists():
        pytest.skip("the schema of Volcano's Job is not at hand (../shared/launch/volcano-jobs-crd.yaml)")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    versions = yaml.safe_load(VOLCANO.read_text())["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1alpha1")
    wrong = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(job)]
    return wrong + list(_unknown({name: job[name] for name in job if name != "metadata"}, schema, ""))


def _unknown(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    """Fields that a schema does not know; a server drops them without a word, or refuses them with strict validation."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _unknown(each, schema.get("items", {}), f"{where}[{number}]")
    if not isinstance(value, dict) or "properties" not in schema:
        return
    for name, each in value.items():
        if name in schema["properties"]:
            yield from _unknown(each, schema["properties"][name], f"{where}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{where}.{name} is not known"
