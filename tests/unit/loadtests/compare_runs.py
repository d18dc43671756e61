"""A small run as it is recorded, made up."""

from loadtests.compare.records import Alone, Ceiling, Measurement, Options, Record, Run
from loadtests.compare.steps import next_step

NAMES = ["sluice", "triton-batching", "triton-single"]
OPTIONS = Options(names=NAMES, mixes=["lognormal"], workers=2, growth=1.1, tries=1)
RUN = Run(
    options=OPTIONS,
    date="2026-01-02",
    machine={"cores": "2", "processor": "a processor"},
    versions={name: {"onnxruntime": "1.2.3"} for name in NAMES},
    settings={"sluice": "its defaults", "triton-batching": "at most 4 rows", "triton-single": "batching off"},
    alone=[(16, 0.01), (512, 0.2)],
    ceilings={"lognormal": 100.0},
)
LADDER = OPTIONS.ladder(100.0)
ALONE = Alone(RUN)


def measurement(
    name: str,
    rate: float,
    milliseconds: list[float | None],
    rung: int | None = None,
    fraction: float | None = None,
) -> Measurement:
    answered = sum(each is not None for each in milliseconds)
    return Measurement(
        round=1,
        name=name,
        mix="lognormal",
        rate=rate,
        seconds=len(milliseconds) / rate,
        rung=rung,
        fraction=fraction,
        lengths=[20] * len(milliseconds),
        milliseconds=milliseconds,
        outcomes={"answered": answered},
        answered=answered,
        cpu_seconds=0.01 * answered,
        generator_seconds=0.1,
        elapsed=10.0,
        foreign=0.05,
        rss=500.0,
        pss=400.0,
        late_p99=0.001,
        batches={1: 10, 3: 10},
        padding=0.1,
    )


def run_of(name: str, holds: float, overloaded: float = 1.0) -> list[Measurement]:
    """Every measurement of a server that holds a rate, and beyond its own rate answers a share of that in time."""
    measured: list[Measurement] = []
    while (step := next_step(measured, LADDER, OPTIONS, ALONE)) is not None:
        in_time = 1000 if step.rate <= holds else round(1000 * min(1.0, overloaded * holds / step.rate))
        if step.rung is not None and step.rate > holds:
            in_time = min(in_time, 900)
        spent: list[float | None] = [50.0] * in_time + [None] * (1000 - in_time)
        measured.append(measurement(name, step.rate, spent, step.rung, step.fraction))
    return measured


def whole_run() -> list[Record]:
    """Sluice holds 90 and keeps it when overloaded, Triton 30 with batching and 60 without, and falls."""
    return [
        RUN,
        Ceiling(round=1, mix="lognormal", rate=100.0),
        *run_of("sluice", 90.0),
        *run_of("triton-batching", 30.0, overloaded=0.2),
        *run_of("triton-single", 60.0, overloaded=0.5),
    ]
