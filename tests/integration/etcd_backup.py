"""Back up and restore the data of etcd, with ``etcdutl snapshot restore`` or like it.

If the environment variable ``ETCDUTL`` names the program, a backup is a snapshot of etcd, and the
program restores it (``make conformance``).

Otherwise this is imitated. A backup is a copy of the data of etcd, whose process does not run
meanwhile. A restore replaces the data, so that etcd has the objects and the revision of the backup.
``--bump-revision`` and ``--mark-compacted`` are imitated through the API of etcd: its revision
increases beyond every revision that clients know, and all revisions up to it are compacted.
"""

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.api_server.controlplane import REQUEST_SECONDS, ControlPlane, Servers, wait_until

ETCDUTL = os.environ.get("ETCDUTL")
SNAPSHOT = "snapshot.db"
"""File in the folder of a backup."""
MARGIN = 1000
"""Number of revisions by which one state exceeds another one, more than the test adds."""


def back_up(plane: ControlPlane, servers: Servers) -> Path:
    """Back up the data of a control plane that runs; return the folder of the backup.

    Then the revision increases, as in a cluster with other clients: after a restore, no object has
    a version that clients know.
    """
    copy = plane.folder / "etcd-backup"
    shutil.rmtree(copy, ignore_errors=True)
    if ETCDUTL:
        copy.mkdir()
        (copy / SNAPSHOT).write_bytes(_snapshot(servers))
    else:
        _copy_files(plane, copy)
    with _client(servers) as client:
        _write_until(client, _revision(servers) + MARGIN)
    return copy


def restore(servers: Servers, copy: Path, *, bump: bool) -> None:
    """Replace the data by a backup. etcd must not run. bump: see the module."""
    with servers.etcd():
        before = _revision(servers)
    shutil.rmtree(servers.folder / "etcd")
    if ETCDUTL:
        _restore_snapshot(servers, copy / SNAPSHOT, before + MARGIN if bump else 0)
    else:
        shutil.copytree(copy, servers.folder / "etcd")
    with servers.etcd():
        restored = _revision(servers)
        assert (restored > before) == bool(ETCDUTL and bump), "the backup is older"
        if bump and not ETCDUTL:
            with _client(servers) as client:
                _write_until(client, before + MARGIN)
                _call(client, "kv/compaction", revision=before + MARGIN)


def _copy_files(plane: ControlPlane, copy: Path) -> None:
    # etcd recovers from the copy as it recovers after a kill.
    plane.etcd.send_signal(signal.SIGSTOP)
    # The signal arrives later; until then, the files change.
    os.waitid(os.P_PID, plane.etcd.pid, os.WSTOPPED)
    try:
        shutil.copytree(plane.folder / "etcd", copy)
    finally:
        plane.etcd.send_signal(signal.SIGCONT)


def _snapshot(servers: Servers) -> bytes:
    """Return a snapshot of etcd, which ``etcdctl snapshot save`` would write."""
    with _client(servers) as client:
        client.request("POST", "/v3/maintenance/snapshot", "{}")
        answer = client.getresponse()
        parts = [json.loads(line)["result"].get("blob", "") for line in answer]
    return b"".join(map(base64.b64decode, parts))


def _restore_snapshot(servers: Servers, snapshot: Path, bump: int) -> None:
    """Write the data of a snapshot. bump: number by which the revision is increased, or 0."""
    address = f"http://127.0.0.1:{servers.peer}"
    command = [
        str(ETCDUTL),
        *("snapshot", "restore", str(snapshot), "--data-dir", str(servers.folder / "etcd")),
        *("--initial-cluster", f"default={address}", "--initial-advertise-peer-urls", address),
    ]
    if bump:
        command += ["--bump-revision", str(bump), "--mark-compacted"]
    subprocess.run(command, check=True, capture_output=True)


def _revision(servers: Servers) -> int:
    """Return the revision of etcd once it runs."""
    found = 0

    def answers() -> bool:
        nonlocal found
        try:
            with _client(servers) as client:
                found = int(_call(client, "maintenance/status")["header"]["revision"])
        except OSError:
            return False
        return True

    wait_until("etcd runs", answers)
    return found


def _client(servers: Servers) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection("127.0.0.1", servers.client, timeout=REQUEST_SECONDS))


def _write_until(client: http.client.HTTPConnection, revision: int) -> None:
    """Write until etcd has a revision."""
    key = base64.b64encode(b"bump").decode()
    while int(_call(client, "kv/put", key=key)["header"]["revision"]) < revision:
        pass


def _call(client: http.client.HTTPConnection, method: str, **request: Any) -> Any:
    client.request("POST", f"/v3/{method}", json.dumps(request))
    answer = client.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    return json.loads(text)
