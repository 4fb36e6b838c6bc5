"""Our rules beside byzfl's: `python -m benchmarks.compare_byzfl`. Makes an environment of its own and installs byzfl there.

byzfl (and the gigabytes it depends on) stays out of the project: the rules run here, byzfl runs over there on the same
updates, through files. Compared where the definitions are the same, to 1e-6, on its numpy path. What differs is said.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from mintmark.aggregation import aggregate
from mintmark.aggregation.selection import krum, monna

VERSION = "0.0.11"
ENVIRONMENT = Path("var/byzfl")
SIZES = ((9, 2, 50), (20, 4, 1000), (50, 10, 5000))  # n, f, d
TOLERANCE = 1e-6

# byzfl's expression over there, and ours here: a chain's name, or a function of updates and f.
SAME = {
    "Average()(x)": "weighted_mean",
    "Median()(x)": "coordinate_median",
    "TrMean(f)(x)": "trimmed_mean",
    "Meamed(f)(x)": "meamed",
    "GeometricMedian(nu=1e-12, T=3000)(x)": "geometric_median",
    "Krum(f)(x)": lambda x, f: krum(x, None, f - 1).vector,
    "MoNNA(f, 0)(x)": lambda x, f: monna(x, None, f, pivot=0).vector,
    "MDA(f)(x)": "mda",
    "TrMean(f)(NNM(f)(x))": "nnm+trimmed_mean",
    "TrMean(f)(ARC(f)(x))": "arc+trimmed_mean",
    "TrMean(f)(NNM(f)(ARC(f)(x)))": "arc+nnm+trimmed_mean",
    "Average()(Clipping(5.0)(x))": "static_clipping:5+weighted_mean",
}
DIFFERENT = {
    "Krum": "byzfl sums n - f - 1 nearest distances, the paper and we n - f - 2: compared with our f less one",
    "MultiKrum": "as Krum, in the scores",
    "GeometricMedian": "three smoothed steps by default: compared with 3000 and next to no smoothing",
    "CenteredClipping": "fixed radius and start at zero; ours follow from the updates",
    "CAF, SMEA": "one step of a power iteration from a random vector there; exact eigenvalues here",
    "Bucketing": "dealt by chance there",
}
THERE = """
import json, sys
import numpy as np
from byzfl import *
from byzfl.aggregators.preaggregators import *
updates = np.load(sys.argv[1])
results = []
for expression in json.loads(sys.argv[3]):
    results.append(np.asarray(eval(expression, globals() | {"x": updates.copy(), "f": int(sys.argv[2])})))
np.save(sys.argv[4], np.array(results))
"""


def environment() -> Path:
    """The interpreter of an environment that holds byzfl; made at first."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"installing byzfl {VERSION} into {ENVIRONMENT}: gigabytes, minutes", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"byzfl=={VERSION}"], check=True)
    return python


def main() -> None:
    """Compare, print a table, and fail where two differ that should not."""
    import json

    python, failed = environment().absolute(), []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for n, f, d in SIZES:
            updates = np.random.default_rng(n).standard_normal((n, d))
            updates[:f] += 3.0
            np.save(place / "updates.npy", updates)
            few = {theirs: ours for theirs, ours in SAME.items() if "MDA" not in theirs or n < 20}
            command = [python, "-c", THERE, place / "updates.npy", str(f), json.dumps(list(few)), place / "results.npy"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for (expression, ours), theirs in zip(few.items(), np.load(place / "results.npy"), strict=True):
                own = (
                    aggregate(ours, updates, f=0 if "weighted_mean" in ours else f).vector
                    if isinstance(ours, str)
                    else ours(updates, f)
                )
                gap = float(np.abs(own - theirs).max())
                failed += [expression] if gap > TOLERANCE else []
                print(f"n={n:<3} f={f:<3} d={d:<5} {expression:<40} {gap:.1e}{'  DIFFERS' if gap > TOLERANCE else ''}")
    for rule, why in DIFFERENT.items():
        print(f"another definition: {rule}: {why}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
