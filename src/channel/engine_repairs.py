"""Repairs of five defects of the yr engine's client, as shipped inside mindpandas 0.2.0.

A consumer and a trainer run for weeks; the client was made for scripts that run for minutes. It
never frees some memory of each call, and it waits for ever when the engine is gone. Each function
below repairs one defect and describes it. `tests/channel/test_engine_repairs.py` fails as soon as a
new mindpandas has fixed one itself.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
import weakref
from typing import Any, Callable

import mindpandas  # noqa: F401  (puts yr and fnruntime on the module path: it has to come first)
import yr
from fnruntime.rpc import rpc_server, sdk
from yr.object_ref import ObjectRef
from yr.runtime.runtime import Runtime
from yr.runtime.task_manager import TaskManager

SEND_TIMEOUT_SECONDS = 15
GET_TIMEOUT_SECONDS = 30

LEAVE_TIMEOUT_SECONDS = 3

# Set once the engine's connection broke or a message timed out. The connection does not come back
# by itself: the process has to leave the engine and join it again.
engine_lost = threading.Event()

_FUTURES = "_TaskManager__futures"
_lock = threading.Lock()
_applied = False
_joined = 0


def apply_repairs() -> None:
    """Repairs the engine's client in this process. Cheap, idempotent and thread-safe."""
    global _applied
    with _lock:
        if _applied:
            return
        # The decorator that makes RPClient a singleton hides its class; making one starts threads.
        client_class = sdk.RPClient._cls
        forget_answered_callbacks(client_class)
        forget_finished_futures()
        bound_send(client_class)
        bound_get()
        notice_a_broken_stream(rpc_server.RuntimeService)
        _applied = True


def leaving() -> None:
    """Notes that the process leaves the engine on purpose: a broken connection is expected now."""
    global _joined
    _joined += 1


def forget_answered_callbacks(client_class: Any) -> None:
    """Drops a call's callback once its answer has come.

    Defect: `RPClient.notify` leaves the callback in `_invoke_callback`, with the request and its
    arguments: about 5 KB for each call, never freed.
    """
    original = client_class.notify

    @functools.wraps(original)
    def notify(self: Any, request: Any) -> None:
        original(self, request)
        self.unregister_invoke_callback(request.requestID)

    client_class.notify = notify


def forget_finished_futures() -> None:
    """Keeps a call's future only as long as the call's result is referenced.

    Defect: `TaskManager.add_task` stores a future for each call and never removes it. Removing it
    on completion would be too early, since `yr.get` reads from the future whether the call failed.
    So the table holds it weakly, and the `ObjectRef` of the result holds it strongly. While a call
    is under way, its callback holds the future.
    """
    original = TaskManager.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        setattr(self, _FUTURES, weakref.WeakValueDictionary())

    def set_task_id(self: Any, task_id: str | None) -> None:
        task_id_property.fset(self, task_id)
        if task_id is not None and Runtime().rt is not None:
            self._future = self.get_future()

    task_id_property: Any = ObjectRef.task_id
    ObjectRef.task_id = property(task_id_property.fget, set_task_id)
    TaskManager.__init__ = init
    if Runtime().rt is not None:  # the engine was initialised before these repairs
        setattr(Runtime().rt.task_mgr, _FUTURES, weakref.WeakValueDictionary())


def bound_send(client_class: Any) -> None:
    """Bounds each message to the engine by `SEND_TIMEOUT_SECONDS`; then raises `TimeoutError`.

    A time-out sets `engine_lost`. Once that is set, `LEAVE_TIMEOUT_SECONDS` is the bound.

    Defect: `.invoke` passes None as the time-out of `RPClient.send`, `terminate` passes 900 s. When
    an actor's process crashes or the engine goes away, the answer never comes, and the caller never
    returns. Besides, `Future.result` of Python 3.9 raises its own kind of `TimeoutError`. `send`
    does not catch it, so its entry stays in the table of expected answers.
    """
    original: Callable[..., Any] = client_class.send

    @functools.wraps(original)
    def send(self: Any, request: Any, timeout: float | None = None) -> Any:
        patience = LEAVE_TIMEOUT_SECONDS if engine_lost.is_set() else SEND_TIMEOUT_SECONDS
        limit = patience if timeout is None else min(timeout, patience)
        joined = _joined
        try:
            return original(self, request, limit)
        except concurrent.futures.TimeoutError:
            self._response_futures.pop(request.messageID, None)
            if joined == _joined:
                engine_lost.set()
            raise TimeoutError(f"the engine did not take a message within {limit} s") from None

    client_class.send = send


def bound_get() -> None:
    """Lowers the default time-out of `yr.get` from 300 s to `GET_TIMEOUT_SECONDS`.

    Defect: `yr.get_instance` and the constructors of the channel's ends use that default and have
    no argument for it. An actor that hangs would block its caller for five minutes.
    """
    yr.get.__defaults__ = (GET_TIMEOUT_SECONDS,)


def notice_a_broken_stream(service_class: Any) -> None:
    """Sets `engine_lost` when the stream from the engine ends, and fails all pending calls.

    Defect: `RuntimeService._receive_request` only logs the end. Pending calls wait until they time
    out.
    """
    original = service_class._receive_request

    @functools.wraps(original)
    def receive(self: Any, request_iterator: Any) -> None:
        joined = _joined
        original(self, request_iterator)
        if joined != _joined:
            return
        engine_lost.set()
        for future in list(sdk.RPClient()._response_futures.values()):
            if not future.done():
                future.set_exception(TimeoutError("the connection to the engine broke"))

    service_class._receive_request = receive
