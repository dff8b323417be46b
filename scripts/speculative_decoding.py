"""Compare the samplers: quality against network calls, on blanked-out text."""

from asarm.cli import launch
from asarm.evaluation.config import DecodingConfig

LOG_WIDTH = 130  # characters, where no terminal says how wide it is


def main(config: DecodingConfig) -> None:
    from rich.console import Console  # torch and the like load here, so that --help is instant
    from tqdm import tqdm

    from asarm.evaluation import blocks, example, figures, judge, report, study
    from asarm.loading import load
    from asarm.run import Run

    planned = study.variants(config)
    model, tokenizer = load(
        config.model, revision=config.revision, device=config.device, dtype=config.dtype
    )
    data = blocks.load_blocks(tokenizer, config.dataset, config.max_length)
    referee = judge.load_judge(config.judge, model.device) if config.judge else None
    run = Run.open(config.output_dir, config, overwrite=config.overwrite, may_change=("judge",))

    print(study.describe(data, config))
    done = run.read("samples.jsonl")
    records = study.decode_trials(model, tokenizer, data, config, done=done)
    total = len(planned) * config.num_trials
    for record in tqdm(records, "filling", total, initial=len(done), unit="text"):
        run.append("samples.jsonl", record)
    samples = run.read("samples.jsonl")
    if referee is not None:
        done = run.read("judge.jsonl")
        for score in tqdm(referee.score(samples, done), "judging", unit="text"):
            run.append("judge.jsonl", score)
        samples = report.add_scores(samples, run.read("judge.jsonl"), referee.name)

    title = report.title(samples, config)
    summary = report.summarise(samples)
    run.write("summary.json", summary)
    run.write("report.md", report.markdown(summary, title))
    run.write("quality.png", figures.quality_figure(summary, title))
    run.write("histograms.png", figures.histogram_figure(samples, title))
    console = Console()
    console = console if console.is_terminal else Console(width=LOG_WIDTH)
    report.show(summary, title, console)
    example.show_example(samples, tokenizer, console)
    print(f"tables, figures and all samples are in {run.folder}")


if __name__ == "__main__":
    launch(main, DecodingConfig)
