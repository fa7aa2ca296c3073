"""What `twice plan` prints: memory by component, time, traffic, money, and every way to divide the run."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from specs.common.errors import UserError
from specs.common.files import write_bytes
from specs.common.tables import bar, duration, number, short, size, table
from specs.estimates.counts import flops_per_sequence, parameters
from specs.estimates.devices import device
from specs.estimates.disk import sizes
from specs.estimates.efficiency import Efficiency, expected_efficiency
from specs.estimates.fit import devices_for, smallest_change
from specs.estimates.memory import gib
from specs.estimates.plan import ENERGY_PRICE, Plan, fits_nowhere, plan, plans, topology_note
from specs.schema.experiment import Experiment

if TYPE_CHECKING:
    from runner.planning.simulate import Simulation


@dataclass(frozen=True)
class Done:
    """A plan, ready to be printed."""

    fits: bool
    lines: list[str]
    plain: dict[str, Any]


def placed(experiment: Experiment, devices: int | None, kind: str | None) -> Experiment:
    """The experiment on another cluster. Raises UserError for an unknown device, or a number that cannot train."""
    changed: dict[str, object] = {}
    if kind is not None:
        changed["device"] = device(kind).name
    if devices is not None:
        micro_batches = experiment.pretraining.micro_batches
        if not 1 <= devices <= micro_batches:
            raise UserError(f"{devices} devices for {micro_batches} micro-batches: give 1 to {micro_batches}")
        if devices > (of_node := experiment.cluster.devices_per_node) and devices % of_node:
            raise UserError(f"{devices} devices do not fill nodes of {of_node}: give a multiple of {of_node}")
        changed["devices"] = devices
    return experiment.model_copy(update={"cluster": experiment.cluster.model_copy(update=changed)})


def make(
    experiment: Experiment, price: float | None, energy_price: float, *, simulate: bool = False, plain: bool = False
) -> Done:
    """Plan an experiment, traced as well where `simulate` is set; `plain` fills the values that a script reads."""
    chosen, options = plan(experiment, price=price), plans(experiment, price)
    text = [] if plain else lines(experiment, options, price, energy_price)
    facts = None
    if simulate:
        traced, stock, seconds = _trace(experiment)
        text += simulation_lines(experiment, traced, stock, chosen, seconds)
        facts = asdict(traced) | {"stock_peak": stock.peak}
    return Done(chosen.fits, text, as_json(experiment, options, price, energy_price, facts) if plain else {})


def draw(experiment: Experiment, target: Path, price: float | None = None) -> None:
    """Write the picture of memory against devices. Raises UserError where the file's ending says no format."""
    from runner.reporting import figures

    options, usable = plans(experiment, price), device(experiment.cluster.device).usable
    title = f"{experiment.name} on {experiment.cluster.device}: memory of a device"
    if target.suffix not in (".svg", ".html"):
        raise UserError(f"{target}: write a picture as .svg or .html")
    needs = [(option.sharding, option.devices, option.memory.needed, option.fits) for option in options]
    text = figures.memory(needs, usable, title)
    if target.suffix == ".html":
        words = click.unstyle("\n".join(lines(experiment, options, price)))
        template = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
        ).get_template("plan.html.j2")
        text = template.render(title=title, figure=Markup(text), text=words)
    write_bytes(target, text.encode())


def _trace(experiment: Experiment) -> tuple["Simulation", "Simulation", float]:
    from runner.planning.simulate import simulate

    began = time.monotonic()
    traced, stock = (
        simulate(
            experiment.architecture,
            experiment.tokenizer.vocab_size,
            experiment.pretraining,
            experiment.cluster.devices,
            experiment.cluster.device,
            stock=stock,
        )
        for stock in (False, True)
    )
    return traced, stock, time.monotonic() - began


def as_json(
    experiment: Experiment, options: Sequence[Plan], price: float | None, energy_price: float, simulation: Any = None
) -> dict[str, Any]:
    """Everything as plain values."""
    chosen = plan(experiment, price=price)
    return {
        "name": experiment.name,
        "parameters": parameters(experiment.architecture, experiment.tokenizer.vocab_size).total,
        "flops_per_token": _flops(experiment),
        "device": asdict(device(experiment.cluster.device)),
        "efficiency": asdict(expected_efficiency(experiment)),
        "energy_price": energy_price,
        "plan": _plain(chosen, energy_price),
        "alternatives": [_plain(estimate, energy_price) for estimate in options],
        "sizes": {estimate.name: {"bytes": estimate.bytes, "how": estimate.how} for estimate in sizes(experiment)},
        "smallest_change": [] if chosen.fits else [list(estimate) for estimate in smallest_change(experiment)],
        "simulation": simulation,
    }


def lines(
    experiment: Experiment, ways: Sequence[Plan], price: float | None, energy_price: float = ENERGY_PRICE
) -> list[str]:
    """The same for people."""
    chosen, offered = plan(experiment, price=price), device(experiment.cluster.device)
    count = parameters(experiment.architecture, experiment.tokenizer.vocab_size).total
    head = f"{experiment.name}: {chosen.devices} x {offered.name}, {chosen.sharding}"
    text = [click.style(head, bold=True)]
    text.append(
        f"  {short(count)} parameters ({count:,}), {_flops(experiment):.4g} FLOPs for a token, forward and backward"
    )
    text += ["", f"Memory of a device at its worst, in {chosen.memory.moment}"]
    text += _memory(chosen, offered.usable)
    if not chosen.fits:
        text += ["", "What would make it fit, cheapest first"]
        text += [f"  {field}: {value} ({note})" for field, value, note in smallest_change(experiment)] or [
            "  no change of a single field"
        ]
    text += ["", "Time and cost of pretraining", *_costs(experiment, chosen, energy_price)]
    on_disk = [[estimate.name, size(estimate.bytes), estimate.how] for estimate in sizes(experiment)]
    text += ["", "On disk", *table(on_disk, right=(1,))]
    text += ["", "Ways to divide the run", *_alternatives(ways, offered.usable)]
    if none := fits_nowhere(ways):
        text.append(f"  does not fit with any division: {', '.join(map(str, none))} devices")
    text += ["", "Sources", *(f"  {source}" for source in offered.sources)]
    kind, _, said = expected_efficiency(experiment).source.partition(": ")
    text.append(f"  efficiency, {kind}: {said}")
    return text


def simulation_lines(
    experiment: Experiment, traced: "Simulation", stock: "Simulation", analytic: Plan, seconds: float
) -> list[str]:
    """What the trace of the real step says."""
    text = ["", f"Traced: the runner's own step, {traced.operations:,} operations in {seconds:.0f} s"]
    share = analytic.memory.peak / traced.peak - 1
    text.append(f"  peak {gib(traced.peak)} (formulas: {gib(analytic.memory.peak)}, {share:+.1%})")
    rows = [[name, gib(value), bar(value / traced.peak)] for name, value in traced.components.items() if value]
    text += table(rows, right=(1,), indent="    ")
    text.append(
        f"  with FSDP's own reduce-scatter: {gib(stock.peak)}; level topology adds {gib(traced.peak - stock.peak)}"
    )
    held = traced.highest.get("order-fixed reduction", 0) - traced.components.get("order-fixed reduction", 0)
    text.append(
        f"  beside it, {gib(held)} of the order-fixed reduction: at another moment of the program, and on a GPU on a "
        "stream whose memory others cannot use"
    )
    usable = device(experiment.cluster.device).usable
    if usable is not None:
        verdict = "fits" if traced.peak + held <= usable else "does not fit"
        text.append(f"  together {gib(traced.peak + held)} of {gib(usable)}: {verdict}")
    text.append("  largest tensors at the peak")
    rows = [[f"{n} x {gib(a.bytes)}", a.label, f"{a.dtype} {list(a.shape)}"] for a, n in traced.largest]
    return [*text, *table(rows, right=(0,), indent="    ")]


def _memory(chosen: Plan, usable: int | None) -> list[str]:
    scale = max(chosen.memory.needed, usable or 0)
    rows = [[name, gib(value), bar(value / scale)] for name, value in chosen.memory.components.items() if value]
    if chosen.memory.beside:
        rows.append(["reduction, beside", gib(chosen.memory.beside), bar(chosen.memory.beside / scale)])
    rows.append(["together", gib(chosen.memory.needed), bar(chosen.memory.needed / scale)])
    if usable is not None:
        rows.append(["the device offers", gib(usable), bar(usable / scale)])
    lines = table(rows, right=(1,))
    verdict = click.style("fits", fg="green") if chosen.fits else click.style("does not fit", fg="red", bold=True)
    return [*lines, f"  {verdict}; {topology_note(chosen)}"]


def _costs(experiment: Experiment, chosen: Plan, energy_price: float) -> list[str]:
    efficiency: Efficiency = expected_efficiency(experiment)
    rows = [["efficiency", _share(efficiency), efficiency.source.partition(": ")[0]]]
    if chosen.step_seconds and chosen.seconds and chosen.device_hours and chosen.tokens_per_second:
        rows += [
            ["a step", duration(chosen.step_seconds), f"bound by {chosen.bound}"],
            ["tokens a second", number(round(chosen.tokens_per_second)), "all devices together"],
            ["all steps", duration(chosen.seconds), f"{chosen.steps:,} steps of {chosen.tokens_per_step:,} tokens"],
            ["device-hours", f"{chosen.device_hours:,.4g}", ""],
        ]
    if chosen.money is not None:
        rows.append(["money", f"${chosen.money:,.0f}", f"at ${chosen.price:.2f} a device-hour"])
    if chosen.kilowatt_hours is not None:
        cost = chosen.kilowatt_hours * energy_price
        note = f"${cost:,.0f} at ${energy_price:.2f}/kWh; {chosen.power:,.0f} W a device, host included"
        rows.append(["energy", f"{chosen.kilowatt_hours:,.4g} kWh", note])
    if chosen.idle:
        rows.append(["devices without work", f"{chosen.idle:.0%}", _better(experiment, chosen)])
    outside = f"of these from other nodes: {size(chosen.outside)}"
    rows.append(["network, a step", size(chosen.traffic), f"received by each device; {outside}"])
    return table(rows, right=(1,))


def _better(experiment: Experiment, chosen: Plan) -> str:
    """Numbers of devices that do as much with fewer, or more with a few more."""
    as_fast = devices_for(experiment, chosen.sub_steps)
    less = f"{as_fast} devices are as fast" if as_fast < chosen.devices else ""
    faster = devices_for(experiment, chosen.sub_steps - 1) if chosen.sub_steps > 1 else 0
    share = (chosen.sub_steps - 1) / chosen.sub_steps
    more = f"{faster} compute a step in {share:.0%} of the time" if faster > chosen.devices else ""
    return "; ".join(filter(None, (less, more)))


def _share(efficiency: Efficiency) -> str:
    if efficiency.utilisation is not None:
        return f"{efficiency.utilisation:.1%} of peak"
    rate = efficiency.tokens_per_second
    return "unknown" if rate is None else f"{rate:,.0f} tokens/s a rank"


def _alternatives(ways: Sequence[Plan], usable: int | None) -> list[str]:
    rows = [["devices", "sharding", "memory", "", "", "step", "all steps", "network/step"]]
    scale = max([usable or 0, *(way.memory.needed for way in ways)], default=1)
    for way in ways:
        fits = "fits" if way.fits else "does not fit"
        step = duration(way.step_seconds) if way.step_seconds else "unknown"
        whole = duration(way.seconds) if way.seconds else "unknown"
        memory = way.memory.needed
        rows.append(
            [str(way.devices), way.label, gib(memory), bar(memory / scale, 16), fits, step, whole, size(way.traffic)]
        )
    text = table(rows, right=(0, 2, 5, 6, 7))
    return [line.replace("does not fit", click.style("does not fit", fg="red")) for line in text]


def _flops(experiment: Experiment) -> float:
    total = flops_per_sequence(experiment.architecture, experiment.tokenizer.vocab_size)
    return total / experiment.architecture.context_length


def _plain(each: Plan, energy_price: float) -> dict[str, Any]:
    energy = each.kilowatt_hours
    return {
        "devices": each.devices,
        "micro_batches_of_a_device": each.sub_steps,
        "idle_share": each.idle,
        "sharding": each.label,
        "fits": each.fits,
        "peak_bytes": each.memory.peak,
        "needed_bytes": each.memory.needed,
        "moment": each.memory.moment,
        "components": dict(each.memory.components),
        "topology_adds_bytes": each.memory.needed - each.stock.needed,
        "step_seconds": each.step_seconds,
        "bound": each.bound,
        "tokens_per_second": each.tokens_per_second,
        "days": each.seconds / 86_400 if each.seconds else None,
        "device_hours": each.device_hours,
        "money": each.money,
        "kilowatt_hours": energy,
        "energy_money": energy * energy_price if energy else None,
        "network_bytes_per_step": each.traffic,
        "network_bytes_from_other_nodes": each.outside,
    }
