"""The run: decide what was left open, say what will happen, train, save, publish."""

from __future__ import annotations

import math
import statistics
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pairloom import checkpoint as checkpoints
from pairloom import config as configs
from pairloom import configfile
from pairloom.allocator import keeping_freed_memory
from pairloom.config import Config, ConfigError
from pairloom.data import PairSet, find_pairs, measure_specs, spec_notes, training_batches
from pairloom.data.addresses import whole as whole_place
from pairloom.data.remembered import Cache
from pairloom.data.views import Transform
from pairloom.devices import has_bf16, peak_memory_mb
from pairloom.disk import among_data
from pairloom.distributed import World, join
from pairloom.fast_step import check_step, step_for
from pairloom.health import LossHealth, NonFiniteLoss, legend
from pairloom.images import ImageSpec
from pairloom.prefetch import on_device
from pairloom.products import publish, save, snapshot
from pairloom.progress import Console, Interrupted, MetricsWindow, StopSignals, duration, estimate
from pairloom.rundir import RunDir
from pairloom.start import Start
from pairloom.tracking import Tracker, check_tracker, open_tracker
from pairloom.training import TrainState, learning_rate, train_step, update_ema
from pairloom.translator import Semantics, Translator
from pairloom.validation import HeldOut


def train(config: Config, out: str | Path | None = None, *, transform: Transform | None = None) -> Path:
    """Train a model, or go on with one: the same call again resumes (bit for bit on one machine).

    Args:
        config: What to train on and how; `None` and "auto" are decided here and saved.
        out: The run directory; None: runs/ and the name of the data set.
        transform: A step of your own on each training pair: (source, target, generator) -> both. It is not
            saved: give the same to resume.

    Returns:
        The run directory, with generator.safetensors and, if there is a D, discriminator.safetensors.

    Raises:
        ConfigError: An impossible configuration, or one that differs from that of the run begun in `out`.
        DataError: The data set cannot be read or paired.
        NonFiniteLoss: A loss became NaN or infinite.
        Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
        ProcessError: Of several processes (torchrun), another one ended or met one of the above.
    """
    config = with_whole_paths(config)
    out = Path(out) if out is not None else Path("runs") / Path(config.data.path).stem
    if (fault := among_data(out, config.data.path, config.data.path_b)) is not None:
        raise ConfigError(fault)
    check_tracker(config.logging.track)
    with join(config, out) as world, keeping_freed_memory():
        _train(world, config, out, transform)
    return out


def _train(world: World, config: Config, out: Path, transform: Transform | None) -> None:
    pairs = world.all(lambda: find_pairs(config.data))
    cache = Cache(config.data, pairs.split("train"), pairs.stamps)
    world.same(lambda: pairs.fingerprint, "images")
    device = world.device
    world.all(lambda: check_step(config.training, device, world.size))
    with world.run_dir(out) as run:
        console = Console(run, aloud=world.leads)
        start = decided = None
        if not world.leads:
            pass
        elif run.begun:
            source_spec, target_spec = run.read_specs()
            config = _same_run(config, run.read_config(), out)
            run.write_config(config)
            if run.read_environment().get("data_fingerprint") != pairs.fingerprint:
                console.say(
                    "Warning: the data set has changed since this run began; the order of images may differ."
                )
        else:
            if config.training.init_from is not None:
                start = Start.load(Path(config.training.init_from))
            console.say("Measuring the training images.")
            source_spec, target_spec = cache.specs(lambda: measure_specs(cache.pairs, config.data))
            config = resolve(config, source_spec, target_spec, device)
            for warning in start.check(config, source_spec, target_spec) if start is not None else ():
                console.say(f"Warning: {warning}")
            run.write_identity(
                config,
                source_spec,
                target_spec,
                device=str(device),
                data_fingerprint=pairs.fingerprint,
                processes=world.facts(),
            )
        if world.leads:
            decided = config, source_spec, target_spec
        config, source_spec, target_spec = world.decided(decided)
        _introduce(console, config, pairs, source_spec, target_spec, device, cache)
        fit(run, console, config, pairs, source_spec, target_spec, device, start, transform, world, cache)


def with_whole_paths(config: Config) -> Config:
    """Relative paths mean this folder, now; a saved configuration is read from others, later."""
    data, init_from = config.data, config.training.init_from
    names = ["path", "path_b", "source_palette", "target_palette", "edge_model", "shard_cache"]
    names += [] if data.hole in configs.HOLES else ["hole"]
    names += [] if data.cache in ("off", "auto") else ["cache"]
    whole: dict[str, Any] = {n: whole_place(getattr(data, n)) for n in names if getattr(data, n)}
    training = replace(config.training, init_from=init_from and str(Path(init_from).resolve()))
    return replace(config, data=replace(data, **whole), training=training)


def resolve(config: Config, source_spec: ImageSpec, target_spec: ImageSpec, device: torch.device) -> Config:
    """Decide every `None` and "auto" that changes what a step computes."""
    g, training = config.generator, config.training
    for side, given, spec in (
        ("source", g.source_channels, source_spec),
        ("target", g.target_channels, target_spec),
    ):
        if given is not None and given != spec.tensor_channels:
            raise ConfigError(
                f"generator.{side}_channels is {given}, but the {side} images have {spec.tensor_channels}; "
                "leave it out to have it measured."
            )
    precision = training.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return replace(
        config,
        data=replace(config.data, load_size=config.data.load_sides),
        generator=replace(
            g,
            source_channels=source_spec.tensor_channels,
            target_channels=target_spec.tensor_channels,
            num_downs=g.num_downs or configs.halvings(config.data.crop_size),
        ),
        training=replace(training, precision=precision),
    )


def _same_run(config: Config, begun: Config, out: str | Path) -> Config:
    """The begun run's configuration, with the run-time fields of this call."""
    config = configfile.adopt(config, begun)
    if config.training.init_from is None:  # where a run started does not matter any more, and may be gone
        config = replace(config, training=replace(config.training, init_from=begun.training.init_from))
    if changed := configfile.differences(begun, config):
        raise ConfigError(
            f"{out}: holds a run with another configuration ({'; '.join(changed)}). "
            "Give the same values to resume it, or another --out to start anew."
        )
    return config


def _introduce(
    console: Console,
    config: Config,
    pairs: PairSet,
    source: ImageSpec,
    target: ImageSpec,
    device: torch.device,
    cache: Cache,
) -> None:
    counts = ", ".join(f"{len(pairs.split(s))} {s}" for s in ("train", "val", "test") if pairs.split(s))
    console.say(f"Pairs: {counts} ({pairs.layout}); {len(pairs.unpaired)} files without a partner.")
    for note in pairs.notes:
        console.say(note)
    if jitter := configs.jitter_note(config.data):
        console.say(f"Warning: {jitter}")
    console.say(f"Source: {source.words()}")
    console.say(f"Target: {target.words()}")
    for note in cache.notes(lambda: spec_notes(cache.pairs, source, target), source, target):
        console.say(note)
    console.say(f"Device: {device}, {config.training.precision}, {torch.get_num_threads()} threads.")
    if config.objective.lambda_gan > 0:
        console.say(legend(config.objective.gan_mode, halved=config.objective.halve_d))


def fit(
    run: RunDir,
    console: Console,
    config: Config,
    pairs: PairSet,
    source_spec: ImageSpec,
    target_spec: ImageSpec,
    device: torch.device,
    start: Start | None = None,
    transform: Transform | None = None,
    world: World | None = None,
    cache: Cache | None = None,
) -> None:
    """The loop: one honest paragraph for each thing that happens in it."""
    world = World(device) if world is None else world
    training, logging = config.training, config.logging
    train_pairs = pairs.split("train")
    epochs = training.epochs or 1
    total_steps = training.steps or math.ceil(epochs * len(train_pairs) / training.batch_size)
    save_every = logging.save_every_steps or min(max(math.ceil(total_steps / 20), 100), 5000)
    if training.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False

    # Say how long it will take, from a few steps of a state that is thrown away.
    state, complaints = checkpoints.load_latest(run.checkpoints) if world.leads else (None, [])
    begin = world.decided(state["step"] if state is not None else 0)
    if begin < total_steps:
        seconds = trial_seconds_per_step(world.share(config), device)
        console.say(estimate(total_steps - begin, total_steps, seconds))

    # Start, or start again where the last whole checkpoint was.
    train_state = TrainState.create(config, device)
    health = LossHealth()
    if state is not None:
        train_state.load_state_dict(state)
        for complaint in complaints:
            console.say(f"Warning: {complaint} An earlier one is used.")
        console.say(f"Resuming at step {train_state.step} of {total_steps}.")
        was = state["optimizer_g"]["param_groups"][0]["lr"]
        rate = learning_rate(training.learning_rate, begin - 1, total_steps, training.decay_fraction)
        if rate != was and begin < total_steps:
            console.say(
                f"Note: the run ends at step {total_steps} now, so the learning rate goes on from "
                f"{rate:.2g}; it had come to {was:.2g}."
            )
    elif start is not None:
        console.say(start.give(train_state))
    del state, start
    if changes := world.spread(train_state, config):
        console.say(f"Warning: {changes}")
    if words := world.words():
        console.say(words)
    old_lines = run.cut_metrics(train_state.step)
    for line in old_lines:
        health.observe(line)

    held_out = world.all(
        lambda: HeldOut(pairs, source_spec, target_spec, config.data, drawn=logging.sample_pairs)
    )
    for warning in held_out.warnings:
        console.say(f"Warning: {warning}")
    held_out.best = checkpoints.best_val_l1(run.checkpoints)
    model = Translator(
        train_state.inference_generator,
        source_spec,
        target_spec,
        config,
        semantics=Semantics.as_trained(config, world.size),
        provenance={
            "run": run.path.name,
            "pairs": len(train_pairs),
            "data_fingerprint": pairs.fingerprint,
        },
    )
    train_state.generator.train()
    step = step_for(training, train_state)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.precision == "bf16")
    batches = training_batches(
        train_pairs,
        source_spec,
        target_spec,
        config.data,
        batch_size=training.batch_size,
        seed=training.seed,
        start=train_state.images_seen,
        stop=total_steps * training.batch_size,
        workers=_workers(config.data.workers),
        transform=transform,
        rank=world.rank,
        ranks=world.size,
        pin_memory=device.type == "cuda",
        decoded=None if cache is None else cache.decoded(source_spec, target_spec, console.say),
    )
    batches = on_device(batches, device)
    window = MetricsWindow()
    tracker = open_tracker(logging.track if world.leads else "none", run.path, config)
    signum = None
    with (
        StopSignals(patient=world.size > 1) as stop,
        closing(batches),
        closing(tracker),
        console.progress(total_steps) as bar,
    ):
        bar.update(train_state.step, {})
        while train_state.step < total_steps:
            # Fetch: with workers this only waits when they are slower than the step.
            started = time.perf_counter()
            try:
                x, y, valid = world.all(lambda: next(batches))
            except ValueError:  # a file has become unreadable: what was learned until now is kept
                if train_state.step > begin:
                    if world.settle(train_state):
                        save(run, train_state, model, best=None)
                    world.release(train_state)
                raise
            fetched = time.perf_counter()

            # Step.
            rate = learning_rate(
                training.learning_rate, train_state.step, total_steps, training.decay_fraction
            )
            for optimizer in (train_state.optimizer_g, train_state.optimizer_d):
                if optimizer is not None:
                    optimizer.param_groups[0]["lr"] = rate
            logs = world.mean(step(train_state, x, y, config.objective, autocast, valid))
            train_state.images_seen += x.shape[0] * (world.size - 1)  # the others' shares
            update_ema(train_state, training.ema_decay)
            window.add(logs)

            # On a CPU looking at a number costs nothing; elsewhere every look would wait for the device.
            log_due = train_state.step % logging.log_every_steps == 0
            # Asked once a step: a signal that comes later is seen, and the state saved, after the next step.
            signum = world.agreed(stop.signum)
            stopping = signum is not None
            save_due = train_state.step % save_every == 0 or train_state.step == total_steps or stopping
            if device.type == "cpu" or log_due or save_due:
                _stop_if_not_finite(logs, train_state, run, weights=save_due)
            now = time.perf_counter()
            train_state.elapsed_seconds += now - started
            window.time(now - started, fetched - started)

            # Log: also before a save, so that no line averages over steps on both sides of a checkpoint.
            if log_due or save_due:
                line = {
                    "step": train_state.step,
                    "images_seen": train_state.images_seen,
                    **window.means(),
                    "lr": rate,
                }
                line |= {
                    "memory_mb": peak_memory_mb(device),
                    "elapsed_seconds": round(train_state.elapsed_seconds, 3),
                }
                _record(line, run, tracker, health, console)
                window = MetricsWindow()
                bar.update(train_state.step, line)
            else:
                bar.update(train_state.step, {})

            # Validate, draw the samples, save. None of it touches the training RNG. Whoever sent a signal may
            # not wait long: then the state alone is saved.
            writes = save_due and world.settle(train_state)
            if writes and stopping and train_state.step < total_steps:
                save(run, train_state, model, best=None)
                publish(run, train_state, model)
            elif writes:
                train_state.generator.eval()
                val_l1 = held_out.validate(model)
                improved = val_l1 is not None and val_l1 < held_out.best
                if val_l1 is not None:
                    held_out.best = min(val_l1, held_out.best)
                    _record({"step": train_state.step, "val_L1": val_l1}, run, tracker, health, console)
                save(run, train_state, model, best=val_l1 if improved else None)
                publish(run, train_state, model)
                if logging.keep_snapshots:
                    snapshot(run, model, train_state.step)
                held_out.draw(model, run.path / "samples" / f"step-{train_state.step:08d}.png")
                train_state.generator.train()
            if save_due:
                world.release(train_state)
            if stopping:
                break

    if begin >= total_steps and world.leads:
        publish(run, train_state, model)  # a kill may have come between the last state and these files
    if signum is not None and train_state.step < total_steps:
        console.say(
            f"Stopped by a signal after step {train_state.step}; saved. The same command goes on from there."
        )
        raise Interrupted(signum)
    console.say(f"Trained {train_state.step} steps in {duration(train_state.elapsed_seconds)}.")


def trial_seconds_per_step(config: Config, device: torch.device, trials: int = 3) -> float:
    """Seconds a step takes on this machine, measured on noise with a state that is then thrown away."""
    rng_state = torch.get_rng_state()
    state = TrainState.create(config, device)
    height, width = configs.height_width(config.data.crop_size)
    batch = config.training.batch_size
    x, y = (
        torch.rand(batch, c, height, width, device=device).contiguous(memory_format=torch.channels_last)
        for c in config.generator.channels
    )
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.training.precision == "bf16")
    seconds = []
    for _ in range(trials):
        started = time.perf_counter()
        logs = train_step(state, x, y, config.objective, autocast)
        next(iter(logs.values())).item()  # wait for the device
        seconds.append(time.perf_counter() - started)
    torch.set_rng_state(rng_state)
    return statistics.median(seconds)  # the first warms up, and a shared machine has its moods


# ------------------------------------------------------------------------------------------------------------
# Parts of the loop


def _record(
    line: dict[str, Any], run: RunDir, tracker: Tracker, health: LossHealth, console: Console
) -> None:
    run.append_metrics(line)
    tracker.log(line)
    for warning in health.observe(line):
        run.append_metrics({"step": line["step"], "warning": warning})
        console.say(f"Warning: {warning}")


def _stop_if_not_finite(logs: dict[str, Tensor], state: TrainState, run: RunDir, *, weights: bool) -> None:
    bad = [name for name, value in logs.items() if not math.isfinite(value.item())]
    if weights and not bad:
        # Finite losses may still have had gradients that were not; such weights must never be saved as good.
        nets = {"G": state.generator, "D": state.discriminator}
        bad = [f"the weights of {name}" for name, net in nets.items() if net is not None and not _finite(net)]
    if not bad:
        return
    kept = checkpoints.steps(run.checkpoints)
    last = f"the last good checkpoint is step {kept[-1]}" if kept else "no checkpoint had been written yet"
    text = (
        f"{' and '.join(bad)} became non-finite at step {state.step}; stopped, and {last}. "
        "Lower training.learning_rate, or look for broken values with `pairloom data check`."
    )
    run.append_metrics({"step": state.step, **{name: value.item() for name, value in logs.items()}})
    run.append_metrics({"step": state.step, "warning": text})
    run.say(text)
    raise NonFiniteLoss(text)


def _finite(net: torch.nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in net.parameters())


def _workers(given: int | None) -> int:
    if given is not None:
        return given
    return min(max(torch.get_num_threads() // 2, 1), 4)
