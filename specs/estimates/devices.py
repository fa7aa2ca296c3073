"""What the devices offer that a spec may name, with sources. There is no default: an unknown device is an error."""

from dataclasses import dataclass

from specs.common.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One accelerator in its usual node of eight, or a CPU rank. None where a number has no meaning."""

    name: str
    peak: float | None
    """Dense bf16 operations per second."""
    usable: int | None
    """Bytes that a process can allocate: what the driver shows, less its own share."""
    link: float | None
    """Bytes per second to devices of the same node, one direction."""
    network: float | None
    """Bytes per second to other nodes, for each device, in the vendor's reference node."""
    power: float | None
    """Watts for each device of a full node, host and fans included: the node's maximum divided by eight."""
    year: int | None
    """When it was announced."""
    price: float | None
    """US dollars for an hour: an assumption to be overruled."""
    sources: tuple[str, ...]


def _listed(eight: float, by: str = "Lambda") -> str:
    return (
        f"price: {by}'s list, 2026: ${eight:.2f} an hour for a node of eight, on demand (an assumption: give --price)"
    )


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            "A100-40GB",
            312e12,
            39 * GIB,
            300e9,
            25e9,
            812.5,
            2020,
            1.99,
            (
                "NVIDIA A100 data sheet (2021): 312 TFLOPS bf16 dense, 40 GB, NVLink 600 GB/s in both directions",
                "NVIDIA DGX A100 user guide: 6.5 kW at most, eight 200 Gb/s adapters",
                _listed(15.92),
            ),
        ),
        Device(
            "A100-80GB",
            312e12,
            79 * GIB,
            300e9,
            25e9,
            812.5,
            2020,
            2.79,
            (
                "NVIDIA A100 data sheet (2021): 312 TFLOPS bf16 dense, 80 GB, NVLink 600 GB/s in both directions",
                "NVIDIA DGX A100 user guide: 6.5 kW at most, eight 200 Gb/s adapters",
                _listed(22.32),
            ),
        ),
        Device(
            "H100-80GB",
            989e12,
            79 * GIB,
            450e9,
            50e9,
            1275.0,
            2022,
            3.99,
            (
                "NVIDIA H100 data sheet (SXM, 2023): 1,979 TFLOPS bf16 sparse, half of it dense; 80 GB; NVLink 900"
                " GB/s in both directions",
                "NVIDIA DGX H100/H200 user guide: 10.2 kW at most, eight 400 Gb/s adapters",
                _listed(31.92),
            ),
        ),
        Device(
            "H200-141GB",
            989e12,
            139 * GIB,
            450e9,
            50e9,
            1275.0,
            2023,
            6.305,
            (
                "NVIDIA H200 data sheet (SXM, 2024): 1,979 TFLOPS bf16 sparse, half of it dense; 141 GB; NVLink 900"
                " GB/s in both directions",
                "NVIDIA DGX H100/H200 user guide: 10.2 kW at most, eight 400 Gb/s adapters",
                _listed(50.44, "CoreWeave"),
            ),
        ),
        Device(
            "B200-180GB",
            2250e12,
            177 * GIB,
            900e9,
            50e9,
            1787.5,
            2024,
            6.69,
            (
                "NVIDIA DGX B200 data sheet (2024), for a device: 4,500 TFLOPS bf16 sparse, half of it dense; 180 GB;"
                " NVLink 1,800 GB/s in both directions",
                "NVIDIA DGX B200 data sheet: 14.3 kW at most, eight 400 Gb/s adapters",
                _listed(53.52),
            ),
        ),
        Device("cpu", None, None, None, None, None, None, None, ("a CPU rank: nothing is assumed of it",)),
    )
}


@dataclass(frozen=True)
class Published:
    """One published training run of a decoder with learned positions, and how many tokens a device trained on."""

    device: str
    size: str
    """As it is called where it was published."""
    layers: int
    d_model: int
    context_length: int
    devices: int
    recompute: bool
    tokens_per_second: float
    """Of one device."""

    @property
    def parameters(self) -> int:
        """Weights that multiply: twelve squares of the width for each layer, and the output."""
        return 12 * self.layers * self.d_model**2 + _FOUNDRY_VOCABULARY * self.d_model

    @property
    def utilisation(self) -> float:
        """Model operations over peak, counted as `specs.estimates.counts` counts them, without recomputation.

        The table states more (39% in place of 36% for 30b at 8,192): it counts pairs that the causal mask hides.
        """
        peak = DEVICES[self.device].peak
        assert peak is not None
        pairs = self.layers * (self.context_length + 1) / 2
        return self.tokens_per_second * (6 * self.parameters + 12 * self.d_model * pairs) / peak

    @property
    def source(self) -> str:
        """Where it stands, and what it says."""
        again = "recomputing" if self.recompute else "without recomputation"
        return (
            f"{_FOUNDRY}: {self.size}, context {self.context_length:,}, {self.devices} devices, {again}: "
            f"{self.tokens_per_second:,.0f} tokens/s a device"
        )


_FOUNDRY = "llm-foundry at 061f2c7, scripts/train/benchmarking/README.md (FSDP full shard, bf16)"
_FOUNDRY_VOCABULARY = 50_368
_SHAPES = {
    "125m": (12, 768),
    "350m": (24, 1024),
    "760m": (24, 1536),
    "1b": (24, 2048),
    "3b": (32, 2560),
    "7b": (32, 4096),
    "13b": (40, 5120),
    "30b": (48, 7168),
    "70b": (80, 8192),
}
"""Layers and width by size, as the table's numbers of parameters confirm (`scripts/train/yamls/pretrain`)."""
_RUNS: tuple[tuple[str, str, int, int, bool, float], ...] = (
    ("A100-80GB", "70b", 2048, 64, True, 410),
    ("A100-80GB", "30b", 8192, 8, True, 574),
    ("A100-80GB", "30b", 2048, 8, True, 916),
    ("A100-80GB", "13b", 8192, 8, True, 1795),
    ("A100-80GB", "13b", 2048, 8, False, 2262),
    ("A100-80GB", "7b", 8192, 8, True, 3206),
    ("A100-80GB", "7b", 2048, 8, False, 4641),
    ("A100-80GB", "3b", 8192, 8, False, 7695),
    ("A100-80GB", "3b", 2048, 8, False, 10811),
    ("A100-80GB", "1b", 8192, 8, False, 13814),
    ("A100-80GB", "1b", 2048, 8, False, 20513),
    ("A100-80GB", "760m", 2048, 8, False, 32434),
    ("A100-80GB", "350m", 2048, 8, False, 58782),
    ("A100-80GB", "125m", 2048, 8, False, 142830),
    ("A100-40GB", "70b", 2048, 128, True, 376),
    ("A100-40GB", "30b", 2048, 128, True, 865),
    ("A100-40GB", "13b", 8192, 8, True, 1407),
    ("A100-40GB", "13b", 2048, 8, True, 1668),
    ("A100-40GB", "7b", 8192, 8, True, 2887),
    ("A100-40GB", "7b", 2048, 8, True, 3679),
    ("A100-40GB", "3b", 8192, 8, False, 7149),
    ("A100-40GB", "3b", 2048, 128, False, 9538),
    ("H100-80GB", "70b", 2048, 64, True, 1039),
    ("H100-80GB", "30b", 8192, 8, True, 1384),
    ("H100-80GB", "30b", 2048, 32, True, 2308),
    ("H100-80GB", "13b", 16384, 8, True, 2985),
    ("H100-80GB", "13b", 4096, 8, True, 4717),
    ("H100-80GB", "13b", 2048, 64, False, 4800),
    ("H100-80GB", "7b", 8192, 8, True, 6935),
    ("H100-80GB", "7b", 2048, 8, False, 10643),
    ("H100-80GB", "3b", 8192, 8, False, 16578),
    ("H100-80GB", "3b", 2048, 64, False, 22525),
    ("H100-80GB", "1b", 8192, 8, False, 29157),
    ("H100-80GB", "1b", 2048, 8, False, 45455),
    ("H100-80GB", "760m", 2048, 8, False, 63147),
)
PUBLISHED = tuple(
    Published(device, size, *_SHAPES[size], length, devices, recompute, rate)
    for device, size, length, devices, recompute, rate in _RUNS
)
SIBLINGS = {"H200-141GB": "H100-80GB", "B200-180GB": "H100-80GB"}
"""Devices without published runs borrow from their generation, and the plan says so."""


def device(name: str) -> Device:
    """What is known of a device. Raises UserError for one that is not in the table: a guess would mislead."""
    if name not in DEVICES:
        raise UserError(f"nothing is known of device {name!r}; there are: {', '.join(DEVICES)}")
    return DEVICES[name]


def nearest_published(name: str, parameters: float, context_length: int) -> Published | None:
    """The published run nearest in size, then in context, on this device or the one of its generation."""
    runs = [run for run in PUBLISHED if run.device == SIBLINGS.get(name, name)]

    def distance(run: Published) -> float:
        larger = max(run.parameters / parameters, parameters / run.parameters)
        longer = max(run.context_length / context_length, context_length / run.context_length)
        return float(larger * longer**0.5)

    return min(runs, key=distance, default=None)
