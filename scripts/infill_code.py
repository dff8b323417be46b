"""Fill the gaps of functions, and run their tests: HumanEval infilling, or bundled tasks."""

from asarm.cli import launch
from asarm.evaluation.programs.config import InfillCodeConfig


def main(config: InfillCodeConfig) -> None:
    from dataclasses import replace

    from asarm.evaluation.items import GROWING, Ledger, Share, open_run
    from asarm.evaluation.programs import protocol, samples, tasks
    from asarm.evaluation.programs.generate import (
        fill_with_progress,
        key,
        load_networks,
        require_gaps,
    )
    from asarm.evaluation.programs.output import finish
    from asarm.evaluation.programs.variants import variants

    # torch loads here, so that --help is instant
    from asarm.fingerprint import fingerprints

    variants(config)  # refuses what cannot be served
    config = replace(config, dataset=tasks.resolve_dataset(config.dataset))
    whole = tasks.load_tasks(config.dataset).leave_out(config.leave_out)
    task_set = whole.first(config.max_items)
    share = Share.here()
    if config.samples and not (share.is_first and share.task == 0):
        return
    given = config.samples and samples.read_samples(config.samples, whole, config.max_items)
    networks = None if given else load_networks(config)
    protocol.new_scorer(config)  # refuses where nothing isolates programs
    if networks:
        require_gaps(networks, task_set.tasks, config)
    run = open_run(
        config,
        Share() if given else share,
        fingerprints=networks and fingerprints(config, whole.tasks, networks),
        may_change=("execute", "timeout", "leave_out"),
        may_grow=GROWING,
    )
    scorer = protocol.new_scorer(config, run=run, progress=share.is_first)

    if not given:
        ledger = Ledger(run, "generations.jsonl", key, share)
        given = fill_with_progress(ledger, networks, task_set, config)
    if given is None:
        print("other array tasks have gaps to fill; the last one scores the programs")
    else:
        finish(run, task_set, given, config, networks, scorer)


if __name__ == "__main__":
    launch(main, InfillCodeConfig)
