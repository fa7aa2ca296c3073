"""The learning rate as a pure function of the step."""

import math

from specs.schema.training import Schedule


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """Learning rate of a step, counted from 0, of `steps` in all.

    Warm-up rises linearly and reaches the peak at step `warmup_steps`. `cosine` then falls along half a cosine to
    `final_fraction` of the peak at the last step (Loshchilov and Hutter, 2017), `constant` stays, `wsd` stays and falls
    linearly over the last `decay_fraction` of all steps (Hu et al., 2024).
    """
    if step < schedule.warmup_steps:
        return peak * (step + 1) / (schedule.warmup_steps + 1)
    last, final = steps - 1, schedule.final_fraction
    match schedule.kind:
        case "constant":
            return peak
        case "cosine":
            done = _progress(step, schedule.warmup_steps, last)
            return peak * (final + (1 - final) * 0.5 * (1 + cos_pi(done)))
        case "wsd":
            begin = max(schedule.warmup_steps, last - round(schedule.decay_fraction * steps))
            return peak * (1 - (1 - final) * _progress(step, begin, last))


def cos_pi(x: float) -> float:
    """cos(pi x) for x from 0 to 1, from additions and multiplications alone: the same bits on every processor.

    The C library's cosine has other last bits where its code for the processor has fused operations. Taylor's series by
    Horner's scheme, on angles up to pi/4, where the first term that is left out is below 1e-17.
    """
    if x > 0.5:
        return -cos_pi(1 - x)
    cosine = x <= 0.25
    angle = math.pi * (x if cosine else 0.5 - x)
    square, total = angle * angle, 1.0
    for n in range(16 if cosine else 17, 1, -2):
        total = 1 - square / (n * (n - 1)) * total
    return total if cosine else angle * total


def _progress(step: int, begin: int, end: int) -> float:
    return 1.0 if begin >= end else min(max((step - begin) / (end - begin), 0.0), 1.0)
