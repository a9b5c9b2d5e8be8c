"""Tells somebody when a run needs a person: a command of the user's, or a webhook; never in the way of the
run.

The webhook's URL is often a secret, so the config names only the environment variable that holds it; neither
the URL nor anything else of the environment is in the message or in a log.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any

from megatrain.config import AlertConfig

LIMIT_S = 20.0
logger = logging.getLogger(__name__)


def alert(config: AlertConfig, message: Mapping[str, Any]) -> list[threading.Thread]:
    """Send a message in the background; gives the threads that do it. A failure is one line in the log."""
    if message.get("event") not in config.events:
        return []
    text = json.dumps(dict(message)).encode()
    ways = []
    if config.command:
        ways.append(threading.Thread(target=_call, args=(config.command, text), daemon=True))
    url = os.environ.get(config.url_variable) if config.url_variable is not None else None
    if url:
        ways.append(threading.Thread(target=_post, args=(url, text), daemon=True))
    for thread in ways:
        thread.start()
    return ways


def message(run: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of an event; nothing of the run's config."""
    return {"run": run, **{key: record.get(key) for key in ("event", "step", "cause", "time")}}


def _call(command: tuple[str, ...], text: bytes) -> None:
    try:
        ended = subprocess.run(
            command,
            input=text,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_S,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("resilience.alert.command: %s", type(error).__name__)
    else:
        if ended.returncode != 0:
            logger.warning("resilience.alert.command ended with code %d", ended.returncode)


def _post(url: str, text: bytes) -> None:
    if not url.startswith(("https://", "http://")):
        logger.warning("resilience.alert.url_variable: its value is no http(s) URL")
        return
    request = urllib.request.Request(url, data=text, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S):
            pass
    except (OSError, ValueError) as error:  # the URL is not told: it may be a secret
        logger.warning(
            "resilience.alert.url_variable: the webhook could not be called: %s", type(error).__name__
        )
