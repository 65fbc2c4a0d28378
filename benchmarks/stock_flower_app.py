"""The Flower app of `stock_flower.py`: FedAvg over sites that train nothing. Copied into the app that is run.

Flower loads it in the processes that it starts for a run; nothing here runs in the benchmark's own process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from contender import model
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


class Told(FedAvg):
    """Flower's FedAvg, which also writes down when each round began and ended."""

    events: Path

    def note(self, what: str, number: int) -> None:
        with self.events.open("a", encoding="utf-8") as file:
            file.write(f"{what} {number} {time.time()}\n")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.note("begin", server_round)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        done = super().aggregate_train(server_round, replies)
        self.note("end", server_round)
        return done


@server.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = Told(
        fraction_evaluate=0.0,  # no evaluation
        min_train_nodes=2,
        min_available_nodes=2,  # all that are there take part; two are enough
    )
    strategy.events = Path(str(config["events"]))
    arrays = ArrayRecord({name: Array(tensor) for name, tensor in model(int(config["numbers"])).items()})
    strategy.start(
        grid=grid,
        initial_arrays=arrays,
        num_rounds=int(config["rounds"]),
        timeout=float(config["timeout"]),
        train_config=ConfigRecord({"pause": float(config["pause"])}),
    )


@client.train()
def train(message: Message, context: Context) -> Message:
    config = message.content.config_records["config"]
    # All tensors are unpacked and packed again, as a site must that trains.
    arrays = message.content.array_records["arrays"]
    tensors: dict[str, np.ndarray] = {name: np.array(array.numpy()) for name, array in arrays.items()}
    time.sleep(float(str(config["pause"])))
    # In every tensor, and at every site another number: Flower stores and sends what is the same only once.
    for tensor in tensors.values():
        tensor.flat[0] = context.node_id % 1000 + int(str(config["server-round"]))
    changed = ArrayRecord({name: Array(tensor) for name, tensor in tensors.items()})
    content = RecordDict({"arrays": changed, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)
