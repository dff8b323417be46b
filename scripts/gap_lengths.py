"""Compare estimators of the length of a blank, on held-out prose and code."""

from asarm.cli import launch
from asarm.evaluation.gap_lengths.config import GapLengthsConfig

NOTE = (
    "Of gaps of 1 to 8 words: how often the true length in tokens is the estimator's first, how "
    "often it is at most 1 off, the mean absolute error, rows pushed through the network a gap, "
    "and the mean log-probability of the true length. Mean ± standard error. Best powers of the "
    "evidence: {powers}."
)


def main(config: GapLengthsConfig) -> None:
    from tqdm import tqdm  # torch and the like load here, so that --help is instant

    from asarm.display import tables
    from asarm.evaluation.gap_lengths import study
    from asarm.evaluation.items import Ledger, Share, open_run
    from asarm.loading import load

    study.check(config)
    share = Share.here()
    model, tokenizer = load(
        config.model, revision=config.revision, device=config.device, dtype=config.dtype
    )
    contents = study.fingerprints(model, tokenizer, config)
    run = open_run(config, share, fingerprints=contents, may_grow=("max_items",))
    ledger = Ledger(run, "gaps.jsonl", lambda record: (record["kind"], record["item"]), share)
    done = {ledger.key(record) for record in ledger.records()}
    found = study.guess_lengths(model, tokenizer, config, done=done, share=share)
    for record in tqdm(found, "guessing", unit="gap", disable=not share.is_first):
        ledger.append(record)
    records = ledger.merge([asked.key for asked in study.questions(tokenizer, config)])
    if records is None:
        print("others still work on this run; the last one writes the tables")
        return

    summary = study.summarise(records)
    powers = ", ".join(f"{name} {power}" for name, power in study.best_powers(records).items())
    note = NOTE.format(powers=powers)
    run.write("summary.json", summary)
    rows = study.table_rows(summary)
    title = f"Lengths of blanks: {config.model}"
    page = [f"# {title}", "", note, "", *tables.markdown_table(study.HEAD, rows), ""]
    run.write("report.md", "\n".join(page))
    tables.show_table(tables.new_console(), title, note, study.HEAD, rows)


if __name__ == "__main__":
    launch(main, GapLengthsConfig)
