"""The ClientApp of the Flower side, in a module of its own.

Ray's workers import it, so that only messages travel, and keep rows and model from message to
message: as good as a ClientApp of Flower's simulation can be.
"""

from __future__ import annotations

import functools

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from plain_pytorch import make_optimizer, train
from torch import nn
from work import SEED, WORKS, ClientRows, Work, load_clients

app = ClientApp()


@functools.cache
def _clients(path: str) -> list[ClientRows]:
    return load_clients(path)


@functools.cache
def _model(name: str) -> nn.Module:
    torch.set_num_threads(1)  # one core per actor, as the client resources say
    return WORKS[name].make_model()


def _parts(message: Message, context: Context) -> tuple[Work, nn.Module, ClientRows]:
    config: ConfigRecord = message.content["config"]
    work = WORKS[config["work"]]
    model = _model(work.name)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return work, model, _clients(config["data"])[int(context.node_config["partition-id"])]


@app.train()
def train_client(message: Message, context: Context) -> Message:
    """Train on a client's rows."""
    work, model, rows = _parts(message, context)
    number = int(context.node_config["partition-id"])
    round_number = int(message.content["config"]["server-round"])
    generator = torch.Generator().manual_seed(SEED + 1000 * round_number + number)
    loss, steps = train(work, model, make_optimizer(work, model), rows, generator)
    metrics = MetricRecord({"train_loss": loss, "steps": steps, "num-examples": len(rows.y)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
@torch.no_grad()
def evaluate_client(message: Message, context: Context) -> Message:
    """Measure loss and accuracy on a client's validation rows."""
    _, model, rows = _parts(message, context)
    model.eval()
    outputs = model(rows.validation_x)
    metrics = MetricRecord(
        {
            "loss": nn.functional.cross_entropy(outputs, rows.validation_y).item(),
            "accuracy": (outputs.argmax(1) == rows.validation_y).double().mean().item(),
            "num-examples": len(rows.validation_y),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
