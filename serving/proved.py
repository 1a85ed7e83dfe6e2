"""The release that a service proved last, kept by the head of the cluster for replicas that start later.

A replica that starts while a refused release is asked for has none of its own to go on with.
"""

from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from serving.settings import Release

NAMESPACE = b"nashloop-serving"


def remember(service: str, release: Release) -> None:
    """Keep it, in place of what the service proved before."""
    _internal_kv_put(service.encode(), release.model_dump_json().encode(), overwrite=True, namespace=NAMESPACE)


def recall(service: str) -> Release | None:
    """What the service proved last on this cluster."""
    found = _internal_kv_get(service.encode(), namespace=NAMESPACE)
    return Release.model_validate_json(found) if found else None
