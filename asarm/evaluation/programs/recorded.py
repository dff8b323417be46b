"""The floors of the known sets, measured by `scoring.measure_floors` with Python 3.11."""

from __future__ import annotations

from asarm.evaluation.programs.task import Recorded


def _of(prefix: str, empty: str, bare_pass: int) -> Recorded:
    return Recorded(frozenset(f"{prefix}/{number}" for number in empty.split()), bare_pass)


RECORDED = {
    "single-line": _of(
        "SingleLineInfilling/HumanEval",
        "20/L0 20/L8 33/L0 46/L6 66/L0 68/L0 81/L16 92/L4 95/L8 95/L18 96/L6 99/L3 105/L6 105/L7 "
        "109/L3 111/L7 118/L5 124/L1 124/L6 124/L10 127/L3 127/L5 127/L6 127/L8 129/L1 129/L9 "
        "150/L5",
        bare_pass=37,
    ),
    "multi-line": _of(
        "MultiLineInfilling/HumanEval",
        "10/L0_L1 20/L0_L0 20/L8_L8 33/L0_L0 46/L1_L2 46/L6_L6 59/L1_L2 66/L0_L0 68/L0_L0 "
        "76/L0_L1 81/L6_L7 81/L14_L15 81/L14_L17 81/L15_L16 81/L16_L16 81/L16_L17 89/L5_L6 "
        "92/L4_L4 95/L8_L8 95/L14_L15 95/L18_L18 95/L18_L20 95/L19_L20 96/L6_L6 99/L2_L5 "
        "99/L3_L3 99/L15_L16 101/L0_L1 105/L6_L6 105/L6_L7 105/L7_L7 109/L3_L3 111/L7_L7 "
        "118/L0_L1 118/L5_L5 124/L1_L1 124/L5_L6 124/L6_L6 124/L6_L7 124/L9_L10 124/L10_L10 "
        "124/L10_L11 127/L2_L6 127/L3_L3 127/L3_L4 127/L3_L5 127/L3_L7 127/L5_L5 127/L5_L7 "
        "127/L5_L8 127/L6_L6 127/L8_L8 129/L1_L1 129/L9_L9 150/L5_L5",
        bare_pass=65,
    ),
    "random-span": _of(
        "RandomSpanInfilling/HumanEval",
        "7/10 10/3 11/7 15/7 23/5 28/8 35/4 35/10 41/1 48/6 52/7 53/3 66/8 78/8 90/3 95/4 97/5 "
        "105/8 106/6 121/7 124/2 124/3 126/4 127/9 134/1 148/7 152/8 159/9 162/5 163/9",
        bare_pass=1,
    ),
    "random-span-light": _of("RandomSpanInfillingLight/HumanEval", "", bare_pass=0),
    "bundled": _of("bundled", "", bare_pass=0),
}
