import pytest

from specs.estimates.devices import DEVICES, PUBLISHED, SIBLINGS, Published, nearest_published

# Rows of the cited table: device, size, context, model FLOPs utilisation in percent, number of parameters.
TABLE = [
    ("A100-80GB", "70b", 2048, 53.33, 64_862_437_376),
    ("A100-80GB", "30b", 8192, 39.38, 30_019_254_272),
    ("A100-80GB", "13b", 8192, 56.07, 12_885_411_840),
    ("A100-80GB", "7b", 2048, 64.23, 6_658_859_008),
    ("A100-80GB", "3b", 8192, 59.34, 2_667_566_080),
    ("A100-80GB", "1b", 2048, 59.86, 1_315_950_592),
    ("A100-80GB", "760m", 2048, 56.85, 760_470_528),
    ("A100-80GB", "350m", 2048, 51.62, 355_985_408),
    ("A100-80GB", "125m", 2048, 44.79, 125_311_488),
    ("A100-40GB", "13b", 8192, 43.95, 12_885_411_840),
    ("A100-40GB", "7b", 2048, 50.92, 6_658_859_008),
    ("H100-80GB", "70b", 2048, 42.57, 64_862_437_376),
    ("H100-80GB", "30b", 8192, 29.92, 30_019_254_272),
    ("H100-80GB", "7b", 8192, 37.14, 6_684_024_832),
]


def run_of(device: str, size: str, length: int) -> Published:
    (found,) = (run for run in PUBLISHED if (run.device, run.size, run.context_length) == (device, size, length))
    return found


@pytest.mark.parametrize(("device", "size", "length", "stated", "count"), TABLE)
def test_runs_are_those_of_the_table(device: str, size: str, length: int, stated: float, count: int) -> None:
    """Tokens a second and shapes give the utilisation that the table states, counted as the table counts."""
    run = run_of(device, size, length)
    assert run.parameters + length * run.d_model == pytest.approx(count, rel=0.002)
    pairs = 12 * run.layers * run.d_model * length
    peak = DEVICES[device].peak or 0
    assert run.tokens_per_second * (6 * count + pairs) / peak == pytest.approx(stated / 100, rel=0.005)
    # Pairs that the mask hides are no work: the share that plans use is smaller.
    assert run.utilisation < stated / 100


def test_devices_have_runs_of_their_own_or_of_their_generation() -> None:
    for name, device in DEVICES.items():
        run = nearest_published(name, 34e9, 8192)
        assert (run is None) == (device.peak is None)
        assert run is None or run.device == SIBLINGS.get(name, name)
        assert all(":" in source for source in device.sources)
        if device.price is not None:
            assert f"${8 * device.price:.2f} an hour for a node of eight" in device.sources[-1]
