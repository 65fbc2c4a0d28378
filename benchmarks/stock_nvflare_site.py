"""What a site of `stock_nvflare.py` runs: NVFlare's Client API, and nothing that is trained.

python stock_nvflare_site.py PAUSE
"""

from __future__ import annotations

import sys
import time

import nvflare.client as flare
from nvflare.apis.fl_constant import FLMetaKey


def main(pause: float) -> None:
    flare.init()
    while flare.is_running():
        got = flare.receive()
        if got is None:  # the job is over
            return
        time.sleep(pause)  # the "training"
        head = got.params["head.weight"].copy()  # what came may be read-only
        head[0, 0] += 1
        meta = {FLMetaKey.NUM_STEPS_CURRENT_ROUND: 1}  # NVFlare's weight
        flare.send(flare.FLModel(params={**got.params, "head.weight": head}, meta=meta))


if __name__ == "__main__":
    main(float(sys.argv[1]))
