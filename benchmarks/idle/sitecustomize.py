"""Sites that train nothing: on PYTHONPATH, this changes the worker processes of a benchmark, and nothing else.

A worker still reads and checks what was sent, packs, hashes and stores its answer; only the network's work is left
out. The plan's title says how large the model is and how long a site takes: ``262144 numbers, 0.0 s``.
"""

import sys

if "wardround.runtimes.worker_process" in sys.orig_argv:
    import time
    import zlib
    from pathlib import Path

    sys.path.append(str(Path(__file__).parents[1]))

    from contender import model

    from wardround.core.messages import InitFacts, ScoreFacts, TrainFacts
    from wardround.core.scores import Scores
    from wardround.core.weights import Part
    from wardround.site.worker import Site

    def init(site, _task, _sent):
        weights = model(int(site._plan.study.title.split()[0]))
        return InitFacts(parameters=sum(array.size for array in weights.values())), {"weights": Part(weights, 1.0)}, {}

    def train(site, task, sent):
        time.sleep(float(site._plan.study.title.split()[2]))
        weights = dict(sent["weights"].arrays)
        head = weights["head.weight"].copy()
        head[0, 0] += 1 + zlib.crc32(site._setting.name.encode()) % 7 + task.round
        facts = TrainFacts(cases=2, updates=1, samples=1, loss=0.5, rate=0.01)
        return facts, {"weights": Part({**weights, "head.weight": head}, 1.0)}, {}

    def score(_site, _task, _sent):
        return ScoreFacts(scores=Scores()), None, None

    Site._init, Site._train, Site._validate, Site._test = init, train, score, score  # type: ignore[method-assign]
    Site._numbers = lambda site: int(site._plan.study.title.split()[0])  # type: ignore[method-assign]
