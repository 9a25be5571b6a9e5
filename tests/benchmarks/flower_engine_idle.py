"""A ClientApp that computes nothing: what a round takes is then the engine's own.

It imports no torch, which a process per message would pay again and again.
"""

from __future__ import annotations

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train_client(message: Message, _: Context) -> Message:
    """Return the arrays as they came."""
    metrics = MetricRecord({"train_loss": 1.0, "steps": 0, "num-examples": 1})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate_client(message: Message, _: Context) -> Message:
    """Return a loss that was there before."""
    metrics = MetricRecord({"loss": 1.0, "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
