"""Compare the samplers: quality against network calls, on blanked-out text."""

from asarm.cli import launch
from asarm.evaluation.config import DecodingConfig


def main(config: DecodingConfig) -> None:
    from asarm.display.tables import new_console
    from asarm.evaluation import ablation, ablation_report, example, report  # torch loads here, so
    from asarm.evaluation.decoding import Decoding  # that --help is instant
    from asarm.evaluation.items import Share

    share, console = Share.here(), new_console()
    if config.grid is not None:
        collected = ablation.run_ablation(config, share=share, progress=True)
        if collected is not None:
            ablation_report.show(collected.summary, collected.title, console)
            print(f"table, figure and all studies are in {collected.folder}")
        elif share.is_first:
            print("others still work on this ablation; the last one writes the table")
        return
    study = Decoding.open(config, share=share)
    if share.is_first:
        print(study.describe())
    study.fill(progress=True)
    result = study.result()
    if result is None:
        if share.is_first:
            print("others still work on this run; the last one writes the tables")
        return
    study.write(result)
    report.show(result.summary, result.title, console)
    example.show_example(result.samples, console)
    print(f"tables, figures and all samples are in {result.folder}")


if __name__ == "__main__":
    launch(main, DecodingConfig)
