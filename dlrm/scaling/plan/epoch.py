"""What an epoch costs: time, device-hours, money and energy, from the catalogue's prices and powers."""

from __future__ import annotations

from dataclasses import dataclass

from dlrm.hardware.entries import Device


@dataclass(frozen=True)
class Epoch:
    """Of an epoch.

    Attributes:
        samples: trained; hours: of the whole job; device_hours: of all devices.
        usd: at the price; usd_per_device_hour, price_source: which price. None where there is none.
        kwh: at most, with the devices' share of their servers; of devices alone where that is not known.
    """

    samples: int
    hours: float
    device_hours: float
    usd: float | None
    usd_per_device_hour: float | None
    price_source: str
    kwh: float | None


def epoch(samples: int, samples_per_s: float, devices: int, device: Device | None, price: float | None) -> Epoch:
    """Of so many samples at that speed.

    Args:
        samples: of the epoch.
        samples_per_s: of all devices.
        devices: their number.
        device: which; None for CPUs.
        price: dollars an hour of a device, before the catalogue's.
    """
    hours = samples / samples_per_s / 3600
    source = "as given"
    if price is None and device is not None:
        price = device.price_usd_hour
        source = f"list price of {device.price_date}, {device.price_source}" if price else ""
    power = (device.server_power_w or device.power_w) if device else None
    return Epoch(
        samples=samples,
        hours=hours,
        device_hours=hours * devices,
        usd=None if price is None else price * hours * devices,
        usd_per_device_hour=price,
        price_source=source if price is not None else "",
        kwh=None if power is None else power / 1000 * hours * devices,
    )
