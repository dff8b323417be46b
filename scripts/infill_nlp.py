"""Fill blanks in prose and say how good it is: ROCStories, LAMBADA, HellaSwag, held-out text."""

from asarm.cli import launch
from asarm.evaluation.prose.config import InfillProseConfig


def main(config: InfillProseConfig) -> None:
    from tqdm import tqdm  # torch and the like load here, so that --help is instant

    from asarm.display.tables import new_console
    from asarm.evaluation.items import GROWING, Ledger, Share, open_run
    from asarm.evaluation.prose import cells, report
    from asarm.evaluation.prose.sources import load_prose
    from asarm.evaluation.prose.tasks import task_of
    from asarm.fingerprint import fingerprints

    cells.check_config(config)
    prose = load_prose(config.dataset)
    task = task_of(prose, config)
    networks = cells.load_networks(config)
    share = Share.here()
    contents = fingerprints(config, prose.items, networks)
    run = open_run(
        config, share, fingerprints=contents, may_change=cells.ADDS_ROWS, may_grow=GROWING
    )
    ledger = Ledger(run, "samples.jsonl", cells.key, share)

    expected = cells.expected_keys(task)
    done = ledger.records()
    records = cells.run_cells(task, networks, config, done=done, share=share)
    total = len(expected) if share.is_whole else None  # what others do counts for none
    for record in tqdm(records, "filling", total, initial=len(done), disable=not share.is_first):
        ledger.append(record)
    samples = ledger.merge(expected)
    if samples is None:
        print("others still work on this run; the last one writes the tables")
        return

    result = task.result(samples)
    run.write("summary.json", result.summary())
    run.write("report.md", report.markdown(result))
    run.write(report.figure_name(result), report.figure(result))
    report.show(result, new_console())
    print(f"tables, the figure and all samples are in {run.folder}")


if __name__ == "__main__":
    launch(main, InfillProseConfig)
