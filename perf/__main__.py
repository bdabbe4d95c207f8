"""`python -m perf`: time dgmkern against eager PyTorch, torch.compile and the limits of this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

import dgmkern
from dgmkern.memory import keep_freed_memory
from perf import demo, machine, report, sweep, train
from perf.case import OPS_FOLDER, Case, Setting, families, select
from perf.limits import measure_normal_rate
from perf.measure import run_quietest
from perf.steps.case import step_cases
from perf.steps.run import run as run_steps
from perf.timing import Plan

PASSED, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Options:
    """Time dgmkern against eager PyTorch, torch.compile and the limits of this machine.

    Every case is checked against an fp64 formula first; one that fails is not timed and the exit code is 1.
    """

    cases: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Families, cases, beginnings of case names or globs; all by default."""
    list: bool = False
    """Name the cases and stop."""
    filter: tuple[str, ...] = ()
    """Only cases whose names contain one of these."""
    quick: bool = False
    """Few rounds, no torch.compile."""
    demo: bool = False
    """The compact table of `make demo`: fused ops and training throughput, about a minute."""
    sweep: bool = False
    """Time per element from 1e3 to 1e8 elements instead of the cases."""
    train: bool = False
    """Training throughput with fused ops on and off instead of the cases."""
    steps: bool = False
    """Whole training and sampling steps of the models beside the usual code instead of the cases."""
    threads: int | None = None
    """CPU threads; by default as many as torch takes."""
    device: str = "cpu"
    """Where to run: cpu or cuda."""
    cold: bool = False
    """Rotate through copies of the inputs, so that the caches are cold."""
    own_allocator: bool = False
    """Leave malloc as it is: page faults of large temporaries then count, which favours fused ops."""
    budget: float = 6.0
    """Seconds of timing for each case; compilation and the check come on top."""
    retries: int = 0
    """How often to repeat a case while other processes disturb it; the quietest run counts."""
    memory_gb: float = 4.0
    """Largest memory of a sweep's point, in GB."""
    markdown: bool = False
    """Tables in Markdown."""
    out: Path | None = None
    """Write the results to this JSON file."""


def validate(options: Options) -> None:
    """Raise ValueError or OSError, naming the option, before any work."""
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads: got {options.threads}, want 1 or more")
    for name in ("budget", "memory_gb"):
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')}: got {getattr(options, name)}, want more than 0")
    if options.retries < 0:
        raise ValueError(f"--retries: got {options.retries}, want 0 or more")
    if options.device != "cpu" and not (options.device.startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(f"--device: got {options.device!r}, want cpu{' or cuda' if torch.cuda.is_available() else ''}")
    modes = [mode for mode in ("demo", "sweep", "train", "steps") if getattr(options, mode)]
    if len(modes) > 1:
        raise ValueError(f"--{' and --'.join(modes)}: give one of them")
    if modes in (["demo"], ["train"]) and (options.cases or options.filter):
        raise ValueError(f"--{modes[0]} takes no cases and no filter")
    if modes and modes != ["sweep"] and options.device != "cpu":
        raise ValueError(f"--{modes[0]} runs on the CPU; --device: got {options.device!r}")
    if options.out is not None:
        report.check_writable(options.out)


def collect(setting: Setting, folder: Path) -> dict[str, Case]:
    """The cases of all families, by name."""
    found: dict[str, Case] = {}
    for family, module in families(folder).items():
        for case in module.cases(setting):
            if case.name in found:
                raise ValueError(f"two cases are named {case.name}: in {found[case.name].family} and in {family}")
            found[case.name] = replace(case, family=family)
    return found


def main(arguments: Sequence[str] | None = None, *, ops_folder: Path = OPS_FOLDER) -> int:
    """Run the harness; returns the exit code. `ops_folder` holds the case files."""
    options = tyro.cli(Options, args=arguments, prog="python -m perf", config=(tyro.conf.FlagCreatePairsOff,))
    try:
        validate(options)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        setting = Setting(options.device, torch.get_num_threads(), dgmkern.cpu_capability())
        if options.steps:
            found = step_cases()
            names = select(((name.partition("/")[0], name) for name in found), options.cases, options.filter)
            chosen = {name: found[name] for name in names}
        elif options.sweep:
            chosen = sweep.choose(setting, ops_folder, options.cases, options.filter)
        else:
            cases = collect(setting, ops_folder)
            names = select(((case.family, name) for name, case in cases.items()), options.cases, options.filter)
            chosen = {name: cases[name] for name in names}
    except (ValueError, OSError) as error:
        print(f"perf: {error}", file=sys.stderr)
        return BAD_INPUT
    if options.list:
        print("\n".join(chosen))
        return PASSED

    # Luck with the allocator is no merit of a kernel, and eager code with its temporaries pays most for page faults:
    # q_sample of 256x3x64x64 takes 26.5 ms instead of 10.6. Steps run in processes of their own, each as its user's.
    kept = not (options.own_allocator or options.steps) and keep_freed_memory()
    allocator = "freed memory kept" if kept else "as it comes"
    stated = {
        **asdict(setting),
        "cold": options.cold,
        "quick": options.quick,
        "allocator": "freed memory kept by dgmkern, as by its command" if options.steps else allocator,
    }
    plan = Plan(budget=options.budget, cold=options.cold)
    if options.quick:
        plan = replace(plan, rounds=7, budget=min(options.budget, 2.0))
    return run(options, setting, stated, plan, chosen)


def run(options: Options, setting: Setting, stated: dict[str, Any], plan: Plan, chosen: dict[str, Any]) -> int:
    """Measure, print, write; returns the exit code."""
    about = machine.machine(setting.device), machine.versions(), stated
    drawing = not (options.train or options.steps)
    rate = measure_normal_rate(setting, replace(plan, rounds=9)) if drawing else None
    print(report.heading(*about, rate), end="\n\n", flush=True)
    results, more, complete, passed = [], {}, True, True
    try:
        if options.demo:
            results, more = demo.run(setting, plan, chosen, options.retries, markdown=options.markdown)
        elif options.steps:
            passed, more = run_steps(list(chosen.values()), setting, plan, markdown=options.markdown)
        elif options.train:
            more = {"training": train.run(setting, markdown=options.markdown)}
        elif options.sweep:
            results, more = sweep.run(
                chosen, setting, plan, options.memory_gb * 1e9, options.retries, markdown=options.markdown
            )
        else:
            for number, case in enumerate(chosen.values(), start=1):
                progress = f"[{number}/{len(chosen)}] {case.name}"
                print(progress, file=sys.stderr, flush=True)
                case = case.without_compile() if options.quick else case
                results.append(run_quietest(case, setting, plan, options.retries))
    except KeyboardInterrupt:
        complete = False
    if results and not options.demo and not options.sweep:
        print(report.case_table(results, markdown=options.markdown), report.LEGEND, sep="\n\n")
    if options.out is not None:
        try:
            report.write_json(options.out, report.document(*about, rate, results, complete=complete, **more))
        except OSError as error:
            print(f"perf: --out: {error}", file=sys.stderr)
            return BAD_INPUT
    refused = [result.case.name for result in results if result.failed]
    for name in refused:
        print(f"perf: {name}: a kernel of ours failed", file=sys.stderr)
    if not complete:
        return INTERRUPTED
    return PASSED if passed and not refused else FAILED


if __name__ == "__main__":
    sys.exit(main())
