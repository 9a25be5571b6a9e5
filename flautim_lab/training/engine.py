"""Flower's deployment engine, as we use it: its SuperLink, and a warm worker's connection to it.

The second file of Flower's internals (``flower.py`` is the first); each name is held by
``tests/training/test_engine.py``.

Flower's ``flower-superlink`` starts a Python process for every app and every message, and its
SuperNode sleeps three seconds between looks: 3 to 10 s a round for clients that do nothing. Here
the SuperLink's own Fleet API, link state and object store run inside the server's process, which
holds its ServerApp too, and a worker keeps torch, the app and its data loaded. What goes over the
wire is Flower's: its Fleet protocol over HTTPS, its messages, its node authentication.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from flwr.app import Message
from flwr.app.message.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.error import http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from flautim_lab.training.keys import ServerFiles
from flautim_lab.training.listener import Listener

HEARTBEAT_SECONDS = 10.0  # the shortest that Flower accepts; a node is offline after two of them


class Refused(Exception):  # noqa: N818 - the server speaks, and does not know this worker
    """The server does not know this worker's key, or not any more."""


class SuperLink:
    """Flower's SuperLink inside this process, for one run.

    Parameters
    ----------
    files : ServerFiles
        TLS files of the run.
    host, port : str, int
        Where to listen; port 0 takes a free one.

    Raises
    ------
    OSError
        If the port is taken.
    """

    def __init__(self, files: ServerFiles, host: str = "127.0.0.1", port: int = 0) -> None:
        app = _fleet_app()
        self._state = app.state.linkstate_factory.state()
        self._run_id: int = self._state.create_run(
            "flautim-lab", "", "", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task = self._state.get_run_info(run_ids=[self._run_id])[0].primary_task_id
        self._state.claim_task(task)
        self._state.activate_task(task)
        # Flower ends a run whose app gave no sign of life for a minute. Here the app is in this
        # very process, which may be stopped for longer (a laptop that sleeps): it never expires.
        self._state.task_token_store[task].active_until = datetime.max.replace(tzinfo=UTC)
        TaskIdentity.task_id = task
        TaskIdentity.run_id = self._run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self._listener = Listener(app, files, host, port)
        self.port = self._listener.port

    def admit(self, public_key: bytes) -> int:
        """Let a worker of this key in; returns its node id."""
        return int(self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, 0))

    def expel(self, node: int) -> None:
        """Let a worker in no more: its next request is refused."""
        self._state.deactivate_node(node)
        with contextlib.suppress(ValueError):
            self._state.delete_node(NOOP_FLWR_AID, node)

    def online(self) -> dict[int, float]:
        """Return the nodes that are connected, each with the time of its last activation.

        A worker that lost its connection activates itself again, and then knows nothing of the work
        it was given before that time (in seconds since 1970).
        """
        nodes = self._state.get_node_info(statuses=[NodeStatus.ONLINE])
        return {
            node.node_id: datetime.fromisoformat(node.last_activated_at).timestamp()
            for node in nodes
        }

    def send(self, message: Message) -> str:
        """Put a message where its node will fetch it; returns the message's id."""
        session = self._state.start_session(self._run_id)
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            tree = get_object_tree(message)
            objects = get_all_nested_objects(message)
            bare = remove_content_from_message(message)
            stored, missing = self._state.store_message_and_object_tree(bare, tree, session)
            if not stored:
                raise Refused(f"node {message.metadata.dst_node_id} is not admitted")
            for object_id in missing:
                self._state.object_store.put(object_id, objects[object_id].deflate())
        return message.metadata.message_id

    def receive(self, message_ids: Iterable[str]) -> Iterator[tuple[str, Message]]:
        """Yield (id of the question, answer) of the answers that have arrived whole."""
        wanted = set(message_ids)
        store = self._state.object_store
        for bare in self._state.get_message_res(message_ids=wanted, run_id=self._run_id):
            question = bare.metadata.reply_to_message_id
            answer_id = bare.metadata.message_id
            if bare.has_error():
                yield question, bare
            else:
                tree = store.get_object_tree(answer_id)
                contents = {t.object_id: store.get(t.object_id) for t in iterate_object_tree(tree)}
                if not all(contents.values()):
                    # Its parts are still on their way: look at it again.
                    stored = self._state.message_res_store.get(answer_id)
                    if stored is not None:
                        stored.metadata.delivered_at = ""
                    continue
                answer: Any = inflate_object_from_contents(answer_id, contents)
                yield question, answer
            self.forget([question])
            store.delete(answer_id)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop messages and their answers."""
        self._state.delete_messages(message_ins_ids=set(message_ids))

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


def _fleet_app() -> FastAPI:
    """Return Flower's SuperLink with its Fleet API alone.

    Its Control and Runtime APIs, for people and for processes of its own that we do not start, are
    not served: what is not there needs no guard, and each of their layers would cost every request
    of a worker a millisecond.
    """
    whole = create_app()
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
            Middleware(ProtobufTranslationMiddleware),
            Middleware(NodeAuthMiddleware),
        ],
    )
    app.state = whole.state
    app.state.enable_supernode_auth = True  # nobody registers itself
    app.include_router(fleet_router)
    return app


class Connection:
    """A worker's connection to a SuperLink, over Flower's Fleet API.

    Parameters
    ----------
    address : str
        ``host:port``.
    authority : Path
        Certificate of the run's authority.
    keys : tuple
        The worker's private and public key.
    node : int, optional
        The node id that an earlier connection of this worker had.

    Attributes
    ----------
    bytes_received, bytes_sent : int
        Bytes of messages and their parts so far; looks for work that found none do not count.
    transfer_seconds : float
        Seconds that these took.
    """

    def __init__(
        self,
        address: str,
        authority: Path,
        keys: tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey],
        node: int | None = None,
    ) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        self.transfer_seconds = 0.0
        self._earlier = node
        self._public = public_key_to_bytes(keys[1])
        self._client = FleetHttpClient.from_server_address(
            address,
            False,
            str(authority),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(*keys),
            ],
        )
        self._node: Node | None = None
        self._beaten = 0.0

    def activate(self) -> int:
        """Tell the server that this worker is there; returns its node id.

        Raises
        ------
        Refused
            If the server does not know the key (yet).
        httpx.TransportError
            If there is no server.
        """
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        if self._earlier is not None:
            # A connection that broke said no goodbye, and a node that is online is not let in.
            with contextlib.suppress(httpx.HTTPStatusError, RuntimeError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._earlier))
        with _refusals():
            self._node = Node(node_id=self._client.ActivateNode(request).node_id)
        self._beaten = time.monotonic()
        return int(self._node.node_id)

    def beat(self) -> None:
        """Show that this worker lives, if it is time to."""
        if time.monotonic() - self._beaten < HEARTBEAT_SECONDS / 2:
            return
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        with _refusals():
            if not self._client.SendNodeHeartbeat(request).success:
                raise Refused("the server does not know this worker")
        self._beaten = time.monotonic()

    def receive(self) -> Message | None:
        """Return the next message for this worker, or None where there is none."""
        begin = time.perf_counter()
        with _refusals():
            response = self._client.PullMessages(PullMessagesRequest(node=self._node))
        self._beaten = max(self._beaten, time.monotonic() - HEARTBEAT_SECONDS / 2)
        if not response.messages_list:
            return None
        bare = message_from_proto(response.messages_list[0])
        run_id, message_id = bare.metadata.run_id, bare.metadata.message_id
        contents = {}
        for part in iterate_object_tree(response.message_object_trees[0]):
            contents[part.object_id] = self._object(run_id, part.object_id)
        confirm = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run_id, message_object_id=message_id
        )
        with _refusals():
            self._client.ConfirmMessageReceived(confirm)
        # Before the message is made of its parts, which takes them away.
        self.bytes_received += response.ByteSize() + sum(map(len, contents.values()))
        message: Any = inflate_object_from_contents(message_id, contents)
        message.metadata.__dict__["_message_id"] = message_id
        self.transfer_seconds += time.perf_counter() - begin
        return message  # type: ignore[no-any-return]

    def send(self, answer: Message) -> None:
        """Send an answer and its parts."""
        begin = time.perf_counter()
        with no_object_id_recompute(), _refusals():
            answer.metadata.__dict__["_message_id"] = answer.object_id
            objects = get_all_nested_objects(answer)
            response = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(remove_content_from_message(answer))],
                    message_object_trees=[get_object_tree(answer)],
                    clientapp_runtime_list=[0.0],
                )
            )
            for object_id in response.objects_to_push:
                content = objects[object_id].deflate()
                self._client.PushObject(
                    PushObjectRequest(
                        node=self._node,
                        run_id=answer.metadata.run_id,
                        object_id=object_id,
                        object_content=content,
                        session_id=response.session_id,
                    )
                )
                self.bytes_sent += len(content)
        self.transfer_seconds += time.perf_counter() - begin

    @property
    def node(self) -> int | None:
        """The node id that the server gave this worker; None before :meth:`activate`."""
        return self._earlier if self._node is None else int(self._node.node_id)

    def close(self, goodbye: bool = True) -> None:
        """End the connection; with ``goodbye`` the server is told, if it still listens."""
        if goodbye and self._node is not None:
            with contextlib.suppress(httpx.HTTPError, RuntimeError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._client.close()

    def _object(self, run_id: int, object_id: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        with _refusals():
            response = self._client.PullObject(request)
        if not response.object_found or not response.object_available:
            raise Refused("a part of the message is gone: its server has begun anew")
        return bytes(response.object_content)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn the server's refusals into :class:`Refused`; a missing server stays what it is."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise Refused(f"the server answered {error.response.status_code}") from error
