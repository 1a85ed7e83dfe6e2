"""What the service counts. Ray exports it to Prometheus on every node, as `ray_nashloop_...`, beside Serve's own
figures (queues, replicas) and vLLM's (tokens, batch, KV cache); `grafana.json` shows them."""

from ray.serve.metrics import Counter, Gauge, Histogram

SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0]
SCORES = [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]


class Metrics:
    """Metrics of one replica of the ingress."""

    def __init__(self) -> None:
        self.requests = Counter("nashloop_requests", "Requests by route and status.", tag_keys=("route", "status"))  # type: ignore[arg-type]
        self.seconds = Histogram("nashloop_request_seconds", "Time to the end of the answer.", SECONDS, ("route",))
        self._running_gauge = Gauge("nashloop_requests_running", "Requests that are being answered.")
        self._running = 0
        self.candidates = Counter("nashloop_candidates", "Candidates written for selections.", ("method",))
        self.unscored = Counter("nashloop_candidates_unscored", "Candidates left out: not scored.", ("method",))
        self.tokens = Counter("nashloop_candidate_tokens", "Tokens written for selections.", ("method",))
        self.gain = Histogram(
            "nashloop_selection_gain", "Score of the chosen candidate above their mean.", SCORES, ("method",)
        )

    def set_running(self, running: int) -> None:
        """How many requests are being answered."""
        self._running = running
        self._running_gauge.set(running)

    def refresh(self) -> None:
        """Say again what has not changed: Ray forgets a gauge that was not set during two of its reports."""
        self._running_gauge.set(self._running)
