"""The scheduler's message about a pod that fits no node: how many nodes were rejected, and why.

The message has one count per reason and names no node. For each node, the reasons come from the
first scheduler plugin that rejects it; taints and node affinity are checked before resources. The
formats are those of ``FitError.Error()`` in kube-scheduler 1.27 and later.
"""

import re

_MESSAGE = re.compile(r"0/(?P<nodes>\d+) nodes are available: (?P<reasons>.+?)\.(?: |$)")
_NEXT_REASON = re.compile(r", (?=\d+ )")
_REASON = re.compile(r"(?P<count>\d+) (?P<reason>.+)")
_FIXED = re.compile(
    r"node\(s\) didn't match Pod's node affinity/selector"
    r"|node\(s\) didn't satisfy plugin\(s\) \[NodeAffinity\]"
    r"|node\(s\) had untolerated taint(?:\(s\)"
    r"| \{(?!node\.kubernetes\.io/)[^}]*\})"
)
"""Reasons that exclude a node on which a pod with the same placement already runs.

The taints of Kubernetes itself (``node.kubernetes.io/not-ready``) are not among them, nor is a
cordoned node: a node gets these after its pods were scheduled. From Kubernetes 1.35 on, the message
does not name the taints any more.
"""


def only_lacks(message: str, resource: str) -> bool:
    """Report whether nothing but a resource is missing on the nodes that can run a pod.

    True means: some nodes lack the resource and nothing else, and every other node is excluded by
    its labels or taints. False if any other reason appears, or the message has an unknown form.
    """
    parsed = _MESSAGE.match(message)
    if parsed is None:
        return False
    reasons = map(_REASON.fullmatch, _NEXT_REASON.split(parsed["reasons"]))
    counts = {reason["reason"]: int(reason["count"]) for reason in reasons if reason is not None}
    lacking = f"Insufficient {resource}"
    return (
        # With more reasons than nodes, some node was rejected for several reasons.
        sum(counts.values()) == int(parsed["nodes"])
        and lacking in counts
        and all(reason == lacking or _FIXED.fullmatch(reason) for reason in counts)
    )
